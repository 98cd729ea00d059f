"""Jobs of a grid that left no run directory: they failed before they had one, or have not begun."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from bit_axon.sweep.reporting.ledger import Job
from bit_axon.sweep.reporting.report import Row, State

_HYDRA_FILE: Final = Path(".hydra", "hydra.yaml")
_LINE_CHARACTERS: Final = 200
_TAIL_BYTES: Final = 4096


def number_of_run(run_dir: Path, at: int) -> int:
    """The number of the job that a run directory is of: its name, else what Hydra keeps in it, else `at`."""
    if run_dir.name.isdigit():
        return int(run_dir.name)
    found = _kept_number(run_dir / _HYDRA_FILE)
    return at if found is None else found


@lru_cache(maxsize=1024)
def _kept_number(path: Path) -> int | None:
    try:
        number = yaml.safe_load(path.read_text(encoding="utf-8"))["hydra"]["job"]["num"]
        return int(number)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None


def values_of_jobs(
    absent: Sequence[Job], jobs: Sequence[Job], config: Mapping[str, Any]
) -> dict[int, dict[str, Any]]:
    """The config values of jobs without a run, as far as known: another job's with their overrides."""
    given = {job.number: dict(map(_key_and_text, job.overrides)) for job in jobs}
    keys = {key for one in given.values() for key in one}
    varied = {key for key in keys if len({one.get(key) for one in given.values()}) > 1}
    return {job.number: {**config, **_values(job, varied, config)} for job in absent}


def _key_and_text(override: str) -> tuple[str, str]:
    key, _, text = override.lstrip("+~").partition("=")
    return key, text


def _values(job: Job, varied: set[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Only of keys that are not the same in all jobs: another spelling of a value is no other value."""
    found = {}
    for override in job.overrides:
        key, text = _key_and_text(override)
        if key in varied:
            is_group = key not in config and f"{key}.name" in config
            found[f"{key}.name" if is_group else key] = _parsed(override, text)
    return found


def _parsed(override: str, text: str) -> Any:
    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException:
        return text
    return value if isinstance(value, bool | int | float) or value is None else text


def has_begun(job: Job, folder: Path) -> bool:
    """Whether a process was started for it."""
    return job.begun or _log(job, folder).is_file()


def job_row(job: Job, folder: Path, params: Mapping[str, Any], last_begun: int, goes_on: bool) -> Row:
    """A job without a run directory.

    Args:
        job: as its launcher told of it.
        folder: of the grid.
        params: its values.
        last_begun: the highest number of a job that has begun.
        goes_on: whether the grid does.
    """
    state: State = "failed"
    reason = job.failure or _last_line(_log(job, folder)) or "it has no run directory"
    if not has_begun(job, folder) and job.number > last_begun:
        state, reason = "waiting", "" if goes_on else "not started"
    elif goes_on and job.number == last_begun and not job.failure:
        state, reason = "running", ""
    return Row(job.number, state, reason, params=params, overrides=job.overrides)


def _log(job: Job, folder: Path) -> Path:
    return folder / f"{job.number}.log"


def _last_line(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:_LINE_CHARACTERS] if said else ""
