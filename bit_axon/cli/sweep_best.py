"""The best trial of a sweep: shown, kept as one config file, run again with the values it had."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from bit_axon.cli.reports import show_pairs
from bit_axon.cli.terminal import run_console
from bit_axon.config_files import without_folder
from bit_axon.errors import ConfigError, RunDirectoryError, nearest, problem
from bit_axon.files import write_atomic
from bit_axon.recomposed import refuse_own_keys
from bit_axon.run import main as run_main
from bit_axon.run_directory import CONFIG, REPRO
from bit_axon.sweep.launching.command import quoted
from bit_axon.sweep.reporting.best_config import (
    config_file,
    default_place,
    trial_files,
    trial_overrides,
)
from bit_axon.sweep.reporting.finding import find_sweep
from bit_axon.sweep.reporting.labels import value_text
from bit_axon.sweep.reporting.report import Report, Row, outcome

_ONE_RUN: Final = "hydra.mode=RUN"  # a sweep's file among the overrides is not to search again
_NAME: Final = "name="


@dataclass(frozen=True)
class Request:
    """What is to be done with the best trial."""

    run: bool = False
    write: Path | None = None
    overrides: tuple[str, ...] = ()  # beside the trial's
    trial: int | None = None  # another one than the best


def best_of_sweep(text: str, request: Request, console: Console | None = None) -> int:
    """Shows the best trial of a sweep; the exit code, of the run where there is one.

    Raises:
        RunDirectoryError: there is no such sweep or trial, or nothing is known of how it was run.
        ConfigError: overrides without a run, or a wrong one.
        StorageError: the storage does not answer, or the file cannot be written.
    """
    if request.overrides and not request.run:
        got = f"{' '.join(request.overrides)} without it"
        raise ConfigError(problem("--run with overrides", got, "Add --run."))
    overrides, folder = without_folder(request.overrides, "--run")
    refuse_own_keys(overrides)
    screen, found = console or run_console(), find_sweep(text)
    report = found.report()
    rows = _chosen(report, request.trial)
    for row in rows:
        _show(report, row, screen)
    if len(rows) > 1 and (request.run or request.write):
        numbers = ", ".join(str(row.number) for row in rows)
        got = f"{len(rows)} that none beats: {numbers}"
        raise ConfigError(problem("one trial", got, "Choose one with --trial N."))
    train = _training(report, rows[0], overrides, folder) if request.run else None
    place = request.write
    if place is None and request.run and found.folder:
        place = default_place(found.folder, report, rows[0])
    if place is not None:
        write_atomic(place, config_file(report, rows[0], folder))
        show_pairs(screen, [("config file", str(place))])
    return 0 if train is None else train()


def _chosen(report: Report, number: int | None) -> tuple[Row, ...]:
    rows = report.best if number is None else tuple(row for row in report.rows if row.number == number)
    if rows:
        return rows
    if number is not None:
        remedy = nearest(str(number), [str(row.number) for row in report.rows])
        raise RunDirectoryError(problem(f"a trial of {report.name}", f"{number}", remedy))
    if number is None and not report.is_ranked:
        got = "jobs that differ in their method and have no figure in common"
        raise ConfigError(problem("one best job", got, "Choose one with --trial N."))
    remedy = "Wait for one, or look at the trials with bit-axon sweep show."
    raise RunDirectoryError(problem(f"a complete trial of {report.name}", outcome(report), remedy))


def _show(report: Report, row: Row, screen: Console) -> None:
    pairs = [("trial", f"{row.number}, {row.state}")]
    for objective, value in zip(report.objectives, row.values or (), strict=False):
        pairs.append((objective.metric, f"{value:.6g}"))
    pairs += [(name, value_text(value)) for name, value in row.params.items()]
    if row.run_dir is not None:
        pairs.append(("directory", str(row.run_dir)))
    try:
        command = ["python", "-m", "bit_axon.run", *trial_overrides(row), _ONE_RUN, *trial_files(row).flags]
        pairs.append(("as one run", shlex.join(command)))
    except RunDirectoryError:
        pairs.append(("as one run", "not known on this machine"))
    show_pairs(screen, pairs)


def _training(report: Report, row: Row, overrides: Sequence[str], folder: str | None) -> Callable[[], int]:
    """The run, not begun; its config is composed anew where the trial's directory does not have it."""
    title = f"best of {report.name}" if report.best == (row,) else f"trial {row.number} of {report.name}"
    if row.run_dir is None or not all((row.run_dir / name).is_file() for name in (CONFIG, REPRO)):
        return _composed_anew(row, title, overrides, folder)
    from bit_axon.reproduce import repetition

    found = repetition(row.run_dir, overrides, folder)
    if not any(override.startswith(_NAME) for override in overrides):
        found.values["name"] = title

    def train() -> int:
        found.say()
        return found.train(found.values["name"])[0]

    return train


def _composed_anew(row: Row, title: str, overrides: Sequence[str], folder: str | None) -> Callable[[], int]:
    """What the user gives comes last, so that it counts."""
    named = any(override.startswith(_NAME) for override in overrides)
    name = [] if named else [f"{_NAME}{quoted(title)}"]
    files = trial_files(row, folder)
    files.refuse_missing()
    arguments = [*trial_overrides(row), *name, *overrides, _ONE_RUN, *files.flags]
    lacks = "no run directory on this machine" if row.run_dir is None else f"no {CONFIG} and {REPRO} here"

    def train() -> int:
        print(
            f"Trial {row.number} has {lacks}: its config is composed anew of its overrides, with the config "
            "files as they are today."
        )
        return run_main(arguments)

    return train
