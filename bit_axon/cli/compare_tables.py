"""Runs side by side on the console: few as columns, many as rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bit_axon.cli.terminal import fitted

_MOST_COLUMNS: Final = 4  # runs; more of them become rows
_ANSWER_CHARACTERS: Final = 300
_GAP: Final = 3  # characters between two columns
_STAR: Final = 2


@dataclass(frozen=True)
class Column:
    """One param or figure, and its text for each run; `best` are the places of the best ones."""

    label: str
    texts: Sequence[str]
    best: frozenset[int] = frozenset()

    def cell(self, place: int, console: Console) -> Text:
        """The text of one run; the best one carries a star, for a console without colours."""
        text = fitted(console, self.texts[place])
        return Text(f"* {text}", style="bold green") if place in self.best else Text(text)


def show_columns(title: str, names: Sequence[str], columns: Sequence[Column], console: Console) -> None:
    """Tables under a title, as many as the width takes; nothing but a word when there is nothing to show."""
    console.print()
    if not columns:
        console.print(f"{title}: none")
        return
    if len(names) <= _MOST_COLUMNS:
        tables = [_runs_as_columns(names, columns, console)]
    else:
        varied = [column for column in columns if len(set(column.texts)) > 1]
        parts = _parts(varied, console.width - max(map(len, names)) - 2 * _GAP)
        tables = [_runs_as_rows(names, part, console) for part in parts]
    for number, table in enumerate(tables):
        table.title, table.title_justify, table.title_style = None if number else title, "left", "bold"
        console.print(table)
    if len(names) > _MOST_COLUMNS:
        _show_equal(columns, console)


def _show_equal(columns: Sequence[Column], console: Console) -> None:
    equal = [f"{column.label} {column.texts[0]}" for column in columns if len(set(column.texts)) == 1]
    if equal:
        console.print(Text(fitted(console, f"The same in all: {', '.join(equal)}.")))


def _parts(columns: Sequence[Column], width: int) -> list[list[Column]]:
    """Columns that fit beside each other."""
    parts: list[list[Column]] = [[]]
    free = width
    for column in columns:
        words = [*column.label.split(), *column.texts]
        needed = max(map(len, words)) + _GAP + (_STAR if column.best else 0)
        if needed > free and parts[-1]:
            parts.append([])
            free = width
        parts[-1].append(column)
        free -= needed
    return parts


def _runs_as_columns(names: Sequence[str], columns: Sequence[Column], console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("", style="dim", overflow="fold")
    for name in names:
        table.add_column(fitted(console, name), justify="right", overflow="fold")
    for column in columns:
        table.add_row(column.label, *(column.cell(place, console) for place in range(len(names))))
    return table


def _runs_as_rows(names: Sequence[str], columns: Sequence[Column], console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("run", style="bold", no_wrap=True)
    for column in columns:
        table.add_column(column.label, justify="right", overflow="fold")
    for place, name in enumerate(names):
        table.add_row(fitted(console, name), *(column.cell(place, console) for column in columns))
    return table


def show_answers(
    names: Sequence[str], tables: Sequence[Mapping[str, Any] | None], count: int, console: Console
) -> None:
    """The first `count` prompts that more than one run answered, with each run's answer after training."""
    found = [_answers(table) for table in tables]
    prompts = dict.fromkeys(prompt for answers in found for prompt in answers)
    shared = [prompt for prompt in prompts if sum(prompt in answers for answers in found) > 1]
    for prompt in shared[:count]:
        console.print(_panel(prompt, names, [answers.get(prompt) for answers in found], console))


def _answers(table: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """Prompt to sample, of those after training."""
    if table is None:
        return {}
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    return {str(row["prompt"]): row for row in rows if row["when"] == "after"}


def _panel(
    prompt: str, names: Sequence[str], samples: Sequence[Mapping[str, Any] | None], console: Console
) -> Panel:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", overflow="fold", max_width=max(10, console.width // 3))
    grid.add_column(overflow="fold")
    for name, sample in zip(names, samples, strict=True):
        if sample is not None:
            grid.add_row(fitted(console, name), _marked(sample, console))
    reference = next((sample["reference"] for sample in samples if sample and sample["reference"]), None)
    if reference is not None:
        grid.add_row("reference", Text(_shortened(str(reference), console)))
    shape = box.ROUNDED if console.encoding.lower().startswith("utf") else box.ASCII
    heading = _shortened(prompt.strip().replace("\n", " "), console)
    title = Text(heading, overflow="ellipsis", no_wrap=True)
    return Panel(grid, title=title, title_align="left", box=shape, border_style="dim")


def _marked(sample: Mapping[str, Any], console: Console) -> Text:
    correct = sample["correct"]
    mark = "" if correct is None else fitted(console, "✓ " if correct else "✗ ")
    text = Text(mark, style="green" if correct else "red")
    return text.append(_shortened(str(sample["answer"]), console), style="default")


def _shortened(text: str, console: Console) -> str:
    cut = text if len(text) <= _ANSWER_CHARACTERS else text[:_ANSWER_CHARACTERS] + " …"
    return fitted(console, cut)
