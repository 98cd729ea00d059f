"""The config of one trial, as overrides to run it again and as one file to keep."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

from bit_axon.composition import config_groups
from bit_axon.config_files import ConfigFiles, config_files
from bit_axon.errors import RunDirectoryError, problem
from bit_axon.recomposed import composed
from bit_axon.run_directory import REPRO
from bit_axon.sweep.config.spelling import value_text
from bit_axon.sweep.reporting.report import Report, Row
from bit_axon.tracking.facts import read_facts

# Not part of the experiment; a run of its own gets its own.
_LEFT_OUT: Final = ("name", "tags", "resume", "trial", "tracking")
_NOT_OVERRIDDEN: Final = ("trial", "resume", "name")
_NO_OPTION: Final = ("experiment", "hydra", "sweep", "tracking")  # groups without a choice of their own here


def trial_overrides(row: Row) -> list[str]:
    """The overrides the trial was run with, without those that made it a trial.

    Raises:
        RunDirectoryError: the trial says nothing of them, and its run directory is not on this machine.
    """
    overrides: Sequence[str] | None = row.overrides
    if overrides is None and row.run_dir is not None:
        overrides = read_facts(row.run_dir).repro.get("overrides")
    if overrides is None:
        raise RunDirectoryError(
            problem(
                f"the run directory of trial {row.number}",
                f"{row.run_dir} without {REPRO}" if row.run_dir else "none",
                "Ask on the machine that ran it, or give its parameters to a run by hand: "
                + shlex.join(f"{name}={value_text(value)}" for name, value in row.params.items()),
            )
        )
    return [override for override in map(str, overrides) if _key(override) not in _NOT_OVERRIDDEN]


def trial_files(row: Row, folder: str | None = None) -> ConfigFiles:
    """Where the trial's config files are; bit_axon's own where its run directory is not on this machine.

    Args:
        row: the trial.
        folder: where the files of its `--config-dir` are now, where the user says so.
    """
    found = ConfigFiles() if row.run_dir is None else config_files(row.run_dir)
    return found if folder is None else replace(found, folder=folder)


def _key(override: str) -> str:
    """The first part of the key."""
    return override.lstrip("+~").partition("=")[0].partition(".")[0]


def config_file(report: Report, row: Row, folder: str | None = None) -> str:
    """The trial's whole config as an option of the group `experiment`.

    Args:
        report: of its sweep.
        row: the trial.
        folder: as of `trial_files`; of a trial that ran elsewhere, the config is composed with them.

    Raises:
        RunDirectoryError: as `trial_overrides`, or a folder of config files is gone.
        ConfigError: the trial ran elsewhere, and its config cannot be composed here.
    """
    choices, values = _config(row, folder)
    # An option of the user's own is left out: its values are below, and its file is not needed then.
    known = {group: names for group, names in config_groups().items() if group not in _NO_OPTION}
    defaults: list[Any] = [
        {f"override /{group}": choices[group]} for group in known if choices.get(group) in known[group]
    ]
    kept = {key: value for key, value in values.items() if key not in _LEFT_OUT}
    body = yaml.safe_dump({"defaults": [*defaults, "_self_"]} | kept, sort_keys=False, allow_unicode=True)
    return f"# @package _global_\n{_heading(report, row)}{body}"


def _heading(report: Report, row: Row) -> str:
    pairs = zip(report.objectives, row.values or (), strict=False)
    values = ", ".join(f"{objective.metric} {value:.6g}" for objective, value in pairs) or row.state
    return (
        f"# Trial {row.number} of the {report.kind} {report.name}: {values}.\n"
        "# An option of the group experiment: python -m bit_axon.run --config-dir FOLDER +experiment=NAME\n"
        "# takes it from FOLDER/experiment/NAME.yaml.\n"
    )


def _config(row: Row, folder: str | None) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Options by group, and values; those of the run where it is here, else composed from its overrides."""
    if row.run_dir is not None:
        facts = read_facts(row.run_dir)
        choices = facts.repro.get("choices")
        if facts.config and isinstance(choices, Mapping):
            return choices, facts.config
    found = composed(trial_overrides(row), trial_files(row, folder))
    return found.choices, found.values


def default_place(folder: Path, report: Report, row: Row) -> Path:
    """Where a sweep keeps a trial's config: `--config-dir FOLDER +experiment=best` finds that of the best."""
    name = "best" if report.best == (row,) else f"trial-{row.number}"
    return folder / "experiment" / f"{name}.yaml"
