"""What a sweep's own process says of it: whether it goes on, how it ended, and which jobs a grid has.

`sweep.json` in the sweep's folder. Who looks from outside cannot know these from the runs: a grid between two
jobs looks as one that has ended, and a job that failed before it had a folder as one that never was.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from bit_axon.files import write_json_atomic
from bit_axon.sweep.studies import lease
from bit_axon.tracking.facts import read_json

LEDGER_FILE: Final = "sweep.json"
State = Literal["running", "finished", "interrupted", "failed"]
_STATES: Final[Mapping[str, State]] = {
    "running": "running",
    "finished": "finished",
    "interrupted": "interrupted",
    "failed": "failed",
}


@dataclass(frozen=True)
class Job:
    """One job of a grid."""

    number: int
    overrides: tuple[str, ...] = ()
    begun: bool = True
    failure: str = ""  # why it failed, as its launcher saw it


@dataclass(frozen=True)
class Ledger:
    """What was said last, and whether who said it is still there."""

    state: State
    is_alive: bool
    jobs: tuple[Job, ...] = ()

    @property
    def goes_on(self) -> bool:
        """Whether the sweep's process works on it now."""
        return self.state == "running" and self.is_alive

    @property
    def outcome(self) -> State:
        """The state; a sweep whose process went without a word was interrupted."""
        return "interrupted" if self.state == "running" and not self.is_alive else self.state


def tell(folder: Path, state: State, jobs: Iterable[Job] = ()) -> None:
    """Keeps how a sweep is; jobs that were told before stay, and one of the same number is replaced.

    Raises:
        StorageError: the folder cannot be written.
    """
    known = read_ledger(folder)
    kept = {job.number: job for job in (*(known.jobs if known else ()), *jobs)}
    values = [asdict(kept[number]) for number in sorted(kept)]
    write_json_atomic(folder / LEDGER_FILE, {"state": state, "process": lease.identity(), "jobs": values})


def read_ledger(folder: Path) -> Ledger | None:
    """What the sweep's process has said; None for a sweep of an earlier version, or a torn file."""
    path = folder / LEDGER_FILE
    values = read_json(path)
    if not isinstance(values, Mapping) or values.get("state") not in _STATES:
        return None
    process = values.get("process")
    is_alive = isinstance(process, Mapping) and lease.is_alive(
        {**process, "sweeper": process, "beat": path.stat().st_mtime}
    )
    return Ledger(_STATES[values["state"]], is_alive, tuple(_job(job) for job in values.get("jobs") or ()))


def _job(values: Mapping[str, Any]) -> Job:
    overrides = tuple(str(override) for override in values.get("overrides") or ())
    failure = str(values.get("failure") or "")
    return Job(int(values["number"]), overrides, bool(values.get("begun", True)), failure)
