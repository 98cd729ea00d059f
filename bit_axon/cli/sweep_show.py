"""The table of a sweep's trials, once or again and again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bit_axon.cli.terminal import duration, fitted, is_live, run_console
from bit_axon.sweep.reporting.finding import Sweep, find_sweep
from bit_axon.sweep.reporting.labels import short_names, value_text
from bit_axon.sweep.reporting.report import COUNTED, Report, Row, outcome, remaining_seconds

_REFRESH_SECONDS: Final = 2.0
_OUTAGE_SECONDS: Final = 300.0  # of the storage, while it is watched
_OTHER_LINES: Final = 12  # of a live display, beside the trials
_FEWEST_ROWS: Final = 3
_FILE_WIDTH: Final = 200  # of lines that go to a file or another program
_STYLES: Final = {"complete": "green", "pruned": "yellow", "failed": "red", "running": "cyan"}


def show_sweep(text: str, watch: bool, console: Console | None = None) -> int:
    """Shows the sweep that `text` names; the exit code.

    Raises:
        RunDirectoryError: there is no such sweep.
        StorageError: its storage does not answer.
    """
    screen, found = console or run_console(), find_sweep(text)
    if not watch:
        width = screen.width if screen.is_terminal else max(screen.width, _FILE_WIDTH)
        screen.print(picture(found.report(), screen), width=width, crop=False)
        return 0
    try:
        _watch(found, screen)
    except KeyboardInterrupt:
        return 0
    return 0


def _watch(sweep: Sweep, screen: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    found = replace(sweep, patience_seconds=_OUTAGE_SECONDS)
    report = found.report()
    if not is_live(screen):
        _follow(found, screen, sleep)
        return
    most = max(_FEWEST_ROWS, screen.height - _OTHER_LINES)
    with Live(picture(report, screen, most), console=screen, auto_refresh=False) as live:
        while not report.is_done:
            sleep(_REFRESH_SECONDS)
            report = found.report()
            live.update(picture(report, screen, most), refresh=True)


def _follow(found: Sweep, screen: Console, sleep: Callable[[float], None]) -> None:
    """One line for each trial that starts or ends, where lines cannot be redrawn."""
    known: dict[int, str] = {}
    while True:
        report = found.report()
        for row in report.rows:
            if known.get(row.number) != row.state:
                known[row.number] = row.state
                screen.print(Text(fitted(screen, _line(report, row))), soft_wrap=True)
        if report.is_done:
            break
        sleep(_REFRESH_SECONDS)
    screen.print(Text(fitted(screen, summary(report))), soft_wrap=True)


def _line(report: Report, row: Row) -> str:
    short = short_names(list(report.distributions))
    params = " ".join(f"{short.get(name, name)}={value_text(value)}" for name, value in row.params.items())
    value = f" {_values(row)}" if row.values else ""
    best = " (the best so far)" if row.number in report.best_numbers else ""
    return f"trial {row.number} {row.state}{value}{best}{f': {_why(row)}' if _why(row) else ''}  {params}"


def picture(report: Report, console: Console, most: int | None = None) -> Group:
    """The table over a line or two; with `most`, the last trials and the best ones."""
    table, hidden = _table(report, console, most)
    lines = [f"{hidden} earlier trials are not shown."] if hidden else []
    lines += [summary(report), *report.notes]
    return Group(table, *(Text(fitted(console, line)) for line in lines))


def _table(report: Report, console: Console, most: int | None) -> tuple[Table, int]:
    rows = _shown(report, most)
    short = short_names(list(report.distributions))
    has_reasons = any(_why(row) for row in rows)
    title = f"{report.name}: {', '.join(f'{one.direction} {one.metric}' for one in report.objectives)}"
    table = Table(box=box.SIMPLE_HEAD, title=fitted(console, title), title_justify="left", title_style="bold")
    table.padding = (0, 1, 0, 0)
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    single = len(report.objectives) == 1  # the title names it
    headings = [*("value" if single else one.metric for one in report.objectives), "step", "time"]
    for heading in (*headings, *(short[name] for name in report.distributions)):
        table.add_column(heading, justify="right", no_wrap=True)
    if has_reasons:
        table.add_column("why", overflow="fold")
    for row in rows:
        why = [Text(fitted(console, _why(row)))] if has_reasons else []
        table.add_row(*_cells(report, row), *why, style="bold" if row.number in report.best_numbers else None)
    return table, len(report.rows) - len(rows)


def _shown(report: Report, most: int | None) -> Sequence[Row]:
    if most is None or len(report.rows) <= most:
        return report.rows
    last = report.rows[-most + 1 :]
    best = [row for row in report.best if row not in last]
    return [*best[:1], *last]


def _cells(report: Report, row: Row) -> list[Text]:
    state = Text(row.state, style=_STYLES.get(row.state, "dim"))
    values = [f"{value:.4g}" for value in row.values] if row.values else [""] * len(report.objectives)
    if not row.values and row.last_value is not None and len(values) == 1:
        values = [f"({row.last_value:.4g})"]
    if row.number in report.best_numbers:
        values[0] = f"* {values[0]}"
    params = [value_text(row.params[name]) if name in row.params else "" for name in report.distributions]
    step = f"{max(row.curve):,}" if row.curve else ""
    seconds = duration(row.seconds) if row.seconds is not None else ""
    return [Text(f"{row.number}"), state, *map(Text, values), Text(step), Text(seconds), *map(Text, params)]


def _why(row: Row) -> str:
    """`median` for `pruned:median`, since the state is beside it."""
    again = "" if row.retry_of is None else f"{row.retry_of} again"
    due = "to be run again" if row.is_due else ""
    return ", ".join(part for part in (row.reason.removeprefix(f"{row.state}:"), again, due) if part)


def _values(row: Row) -> str:
    return ", ".join(f"{value:.4g}" for value in row.values or ())


def summary(report: Report) -> str:
    """`11 of 20 trials: 7 complete, 4 pruned; 1 running. Best: trial 5, 0.1234. About 3:20 left.`"""
    counted = report.count(*COUNTED)
    wanted = f" of {report.wanted}" if report.wanted is not None else ""
    parts = [f"{counted}{wanted} {'job' if report.kind == 'grid' else 'trial'}s: {outcome(report)}."]
    best = ", ".join(f"trial {row.number} with {_values(row)}" for row in report.best)
    if best:
        parts.append(f"Best: {best}.")
    left = remaining_seconds(report)
    if left is not None and not report.is_done:
        parts.append(f"About {duration(left)} left.")
    return " ".join(parts)
