"""What is shown around a run: what will be trained, what came out, and answers before and after."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bit_axon.cli.terminal import byte_size, duration, fitted, run_console, short_count

# Label of a line, and the entries on it with the way each is written.
_HEADER_LINES: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("run", (("name", "{}"),)),
    ("model", (("model", "{}"), ("parameters", "{} parameters"), ("dtype", "{}"), ("quantization", "{}"))),
    (
        "adapter",
        (
            ("adapter", "{}"),
            ("rank", "rank {}"),
            ("scale", "scale {}"),
            ("layers", "on {} layers"),
            ("trainable_parameters", "{} trainable parameters"),
        ),
    ),
    ("method", (("method", "{}"), ("packed", "packed"))),
    ("data", (("train_rows", "{} training rows"), ("valid_rows", "{} validation rows"))),
    (
        "training",
        (
            ("max_steps", "{} steps"),
            ("batch_size", "batches of {}"),
            ("grad_accum_steps", "{} micro-batches per step"),
            ("seed", "seed {}"),
            ("resumed_at", "resumed at step {}"),
        ),
    ),
    ("directory", (("run_dir", "{}"),)),
)
_HEADER_SILENT = {"eval_loss_before"}  # shown by the first evaluation
# Label, key before, key after, how it is written.
_BEFORE_AFTER = (
    ("validation loss", "eval_loss_before", "eval_loss", "{:.4f}"),
    ("task accuracy", "task_accuracy_before", "task_accuracy", "{:.1%}"),
    ("reward accuracy", "reward_accuracy_before", "reward_accuracy", "{:.1%}"),
    ("reward margin", "reward_margin_before", "reward_margin", "{:.4f}"),
)
_ANSWER_CHARACTERS = 300


def show_header(header: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints what a run is about to do.

    The keys of `_HEADER_LINES` are put together to lines; what is absent or None is left out, and any
    other key gets a line of its own.
    """
    screen = console or run_console()
    pairs = [(label, _header_line(header, entries)) for label, entries in _HEADER_LINES]
    known = {key for _, entries in _HEADER_LINES for key, _ in entries} | _HEADER_SILENT
    pairs += [(key.replace("_", " "), _value(key, header[key])) for key in header if key not in known]
    show_pairs(screen, [(label, text) for label, text in pairs if text])
    screen.print()


def _header_line(header: Mapping[str, Any], entries: Sequence[tuple[str, str]]) -> str:
    parts = [
        form.format(_value(key, header.get(key))) for key, form in entries if header.get(key) is not None
    ]
    return ", ".join(parts)


def _value(key: str, value: Any) -> str:
    """A value in short: counts and sizes with their unit, a mapping as its names and values."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return " ".join(f"{name.replace('_', ' ')} {_value(name, item)}" for name, item in value.items())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if key.endswith("_bytes"):
        return byte_size(value)
    if key.endswith("parameters"):
        return short_count(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def show_pairs(screen: Console, pairs: Sequence[tuple[str, str]]) -> None:
    """Prints labels and texts in two columns; the texts are never cut, so that they can be copied."""
    width = max((len(label) for label, _ in pairs), default=0)
    for label, text in pairs:
        line = Text(f"{label:<{width}}  ", style="dim")
        line.append(fitted(screen, text), style="not dim")
        screen.print(line, soft_wrap=True)


def show_summary(
    result: Mapping[str, Any], console: Console | None = None, *, run_dir: Path | str | None = None
) -> None:
    """Prints the outcome of a run from the values of its `result.json`; absent ones are left out."""
    screen = console or run_console()
    state, reason = str(result.get("state", "ended")), result.get("stop_reason")
    title = f"{state} after {result.get('step', '?')} steps" + (f": {reason}" if reason else "")
    table = Table(box=box.SIMPLE_HEAD, title=fitted(screen, title), title_justify="left", title_style="bold")
    table.add_column("", style="dim")
    for heading in ("before", "after"):
        table.add_column(heading, justify="right")
    for label, before, after, form in _BEFORE_AFTER:
        if isinstance(result.get(after), int | float):
            table.add_row(label, _formatted(result.get(before), form), _formatted(result.get(after), form))
    for label, text in _single_figures(result):
        table.add_row(label, "", fitted(screen, text))
    screen.print()
    screen.print(table)
    place = run_dir or result.get("run_dir")
    if place:
        _show_next_steps(screen, str(place), state)


def _formatted(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else ""


def _single_figures(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    speed, memory = result.get("tokens_per_second"), result.get("peak_memory_bytes")
    examples, seconds = result.get("examples"), result.get("seconds")
    if isinstance(speed, int | float):
        rows.append(("tokens per second", f"{speed:,.0f}"))
    if isinstance(examples, int) and isinstance(result.get("tokens"), int):
        rows.append(("examples, tokens", f"{examples:,}, {result['tokens']:,}"))
    if isinstance(memory, int | float):
        rows.append(("peak memory", byte_size(memory)))
    total = seconds.get("total") if isinstance(seconds, Mapping) else None
    if isinstance(total, int | float):
        rows.append(("time", duration(total)))
    return rows + _thermal_figures(result.get("thermal"))


def _thermal_figures(thermal: Any) -> list[tuple[str, str]]:
    if not isinstance(thermal, Mapping):
        return []
    rows: list[tuple[str, str]] = []
    hottest, mean, overhead = (thermal.get(key) for key in ("max", "mean", "overhead"))
    if isinstance(hottest, int | float) and isinstance(mean, int | float):
        rows.append(("temperature", f"{mean:.1f} °C in the mean, {hottest:.1f} °C at most"))
    waited = [thermal.get(key) or 0.0 for key in ("paused_seconds", "paced_seconds")]
    if overhead:
        simulated = ", simulated" if thermal.get("simulated") else ""
        rows.append(("waited to cool", f"{duration(sum(waited))}, {overhead:.0%} of the time{simulated}"))
    return rows


def _show_next_steps(screen: Console, run_dir: str, state: str) -> None:
    quoted = f'"{run_dir}"' if " " in run_dir else run_dir
    lines = [("everything is in", run_dir)]
    if state in ("interrupted", "stopped", "failed"):
        lines.append(("go on with", f"python -m bit_axon.run resume={quoted}"))
    else:
        lines.append(("repeat and compare", f"bit-axon reproduce {quoted} --check"))
    lines.append(("look at it", "bit-axon ui"))
    show_pairs(screen, lines)


def show_samples(samples: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Prints each prompt with its answers, as `samples.jsonl` has them: before, after, reference."""
    screen = console or run_console()
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_prompt.setdefault(str(sample.get("prompt", "")), []).append(sample)
    for prompt, answers in by_prompt.items():
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for sample in answers:
            grid.add_row(str(sample.get("when", "")), _answer(screen, sample))
        reference = answers[-1].get("reference")
        if reference is not None:
            grid.add_row("reference", Text(_shortened(screen, str(reference))))
        shape = box.ROUNDED if screen.encoding.lower().startswith("utf") else box.ASCII
        heading = Text(
            _shortened(screen, prompt.strip().replace("\n", " ")), overflow="ellipsis", no_wrap=True
        )
        screen.print(Panel(grid, title=heading, title_align="left", box=shape, border_style="dim"))


def _answer(screen: Console, sample: Mapping[str, Any]) -> Text:
    correct = sample.get("correct")
    mark = "" if correct is None else fitted(screen, "✓ " if correct else "✗ ")
    text = Text(mark, style="green" if correct else "red")
    text.append(_shortened(screen, str(sample.get("answer", ""))), style="default")
    return text


def _shortened(screen: Console, text: str) -> str:
    cut = text if len(text) <= _ANSWER_CHARACTERS else text[:_ANSWER_CHARACTERS] + " …"
    return fitted(screen, cut)
