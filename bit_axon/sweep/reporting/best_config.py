"""The config of one trial, as overrides to run it again and as one file to keep."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from hydra import compose, initialize_config_dir

from bit_axon.composition import (
    CONFIG_ERRORS,
    conf_dir,
    config_groups,
    explained,
    plain_values,
    register_resolvers,
    with_free_tags,
)
from bit_axon.errors import RunDirectoryError, problem
from bit_axon.sweep.config.spelling import value_text
from bit_axon.sweep.reporting.report import Report, Row
from bit_axon.tracking.facts import read_facts

# Not part of the experiment; a run of its own gets its own.
_LEFT_OUT: Final = ("name", "tags", "resume", "trial", "tracking")
_NOT_OVERRIDDEN: Final = ("trial", "resume", "name")
_NO_OPTION: Final = ("experiment", "hydra", "sweep", "tracking")  # groups without a choice of their own here
_HYDRA_FILE: Final = Path(".hydra", "hydra.yaml")
_CONFIG_NAME: Final = "config"
_CONFIG_PATH_FLAGS: Final = ("--config-path", "-cp")
_SEARCH_PATH: Final = "hydra.searchpath"


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
                f"{row.run_dir}, which is not there" if row.run_dir else "none",
                "Ask on the machine that ran it, or give its parameters to a run by hand: "
                + shlex.join(f"{name}={value_text(value)}" for name, value in row.params.items()),
            )
        )
    return [override for override in map(str, overrides) if _key(override) not in _NOT_OVERRIDDEN]


def config_flags(row: Row) -> list[str]:
    """What of the trial's command line says where its config files are: `--config-dir=DIR` and the like.

    Empty where it ran with bit_axon's own files alone, or its run directory is not on this machine.
    """
    if row.run_dir is None:
        return []
    hydra = _hydra_settings(row.run_dir)
    name = hydra.get("job", {}).get("config_name") or _CONFIG_NAME
    given = hydra.get("overrides", {}).get("hydra") or ()
    return [
        *([] if name == _CONFIG_NAME else [f"--config-name={name}"]),
        *_folder_flags(hydra, read_facts(row.run_dir).repro.get("argv") or ()),
        *(override for override in given if override.lstrip("+").startswith(_SEARCH_PATH)),
    ]


def _folder_flags(hydra: Mapping[str, Any], argv: Sequence[str]) -> Iterator[str]:
    """From what Hydra kept and not from `argv`: there a folder may be relative."""
    sources = hydra.get("runtime", {}).get("config_sources") or ()
    folders = {source["provider"]: source["path"] for source in sources}
    if "command-line" in folders:
        yield f"--config-dir={folders['command-line']}"
    # Without the flag it is the folder of bit_axon itself, which may have moved since.
    if "main" in folders and any(word.startswith(_CONFIG_PATH_FLAGS) for word in argv):
        yield f"--config-path={folders['main']}"


def _hydra_settings(run_dir: Path) -> dict[str, Any]:
    """The `hydra` node as the run has kept it; empty where the file is absent or torn."""
    try:
        found = yaml.safe_load((run_dir / _HYDRA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found.get("hydra") or {} if isinstance(found, dict) else {}


def missing_folder(flags: Sequence[str]) -> str | None:
    """The first folder among the flags that is not there any more."""
    folders = [flag.partition("=")[2] for flag in flags if flag.startswith(("--config-dir", "--config-path"))]
    return next((folder for folder in folders if not Path(folder).is_dir()), None)


def _key(override: str) -> str:
    """The first part of the key."""
    return override.lstrip("+~").partition("=")[0].partition(".")[0]


def config_file(report: Report, row: Row) -> str:
    """The trial's whole config as an option of the group `experiment`.

    Raises:
        RunDirectoryError: as `trial_overrides`.
        ConfigError: the trial ran elsewhere, and its config cannot be composed here.
    """
    choices, values = _config(row)
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


def _config(row: Row) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Options by group, and values; those of the run where it is here, else composed from its overrides."""
    if row.run_dir is not None:
        facts = read_facts(row.run_dir)
        choices = facts.repro.get("choices")
        if facts.config and isinstance(choices, Mapping):
            return choices, facts.config
    return _composed(trial_overrides(row))


def _composed(overrides: Sequence[str]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    register_resolvers()
    try:
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            given = with_free_tags([*overrides, "name=null"])
            config = compose("config", given, return_hydra_config=True)
            choices = {str(group): option for group, option in config.hydra.runtime.choices.items()}
            values = plain_values(compose("config", given))
    except CONFIG_ERRORS as error:
        raise explained(error) from None
    return choices, values


def default_place(folder: Path, report: Report, row: Row) -> Path:
    """Where a sweep keeps a trial's config: `--config-dir FOLDER +experiment=best` finds that of the best."""
    name = "best" if report.best == (row,) else f"trial-{row.number}"
    return folder / "experiment" / f"{name}.yaml"
