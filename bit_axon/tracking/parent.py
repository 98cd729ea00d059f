"""Which MLflow run is above the trials of a study or the jobs of a grid: a name on disk, before any store.

The sweep's folder holds `parent.json`. Whoever mirrors a run below it, now or much later and into whichever
store, finds or makes the parent there by its uid; so no process has to wait for another one's MLflow.
"""

import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from bit_axon.files import write_json_atomic
from bit_axon.tracking.facts import read_json
from bit_axon.tracking.locks import file_lock

PARENT_FILE: Final = "parent.json"
PARENT_VARIABLE: Final = "BIT_AXON_PARENT_RUN"  # a sweep's folder, for jobs that are not in it
_LOCK_FILE: Final = ".parent.lock"
_LOCK_SECONDS: Final = 60.0
_LEVELS: Final = 2  # of folders above a run's that may be its sweep's

Kind = Literal["study", "grid"]


@dataclass(frozen=True)
class Parent:
    """The run above others, and the folder whose `parent.json` says so."""

    run_uid: str
    name: str
    kind: Kind
    folder: Path
    started_ms: int | None = None  # unix time


def declare_parent(
    sweep_dir: Path, name: str, kind: Kind, run_uid: str | None = None, started_ms: int | None = None
) -> Parent:
    """Writes `parent.json` into a sweep's folder, unless it is there; cheap, and safe to call twice.

    Args:
        sweep_dir: the folder; it is made when it is absent.
        name: of the study or grid.
        kind: what it is.
        run_uid: makes several folders (of machines that share a study) belong to one parent.
        started_ms: unix time; now, by default.

    Raises:
        StorageError: the folder cannot be written.
        TimeoutError: another process has held the folder's lock for a minute.
    """
    with file_lock(sweep_dir / _LOCK_FILE, _LOCK_SECONDS):
        known = read_parent(sweep_dir)
        if known is not None and run_uid in (None, known.run_uid):
            return known
        began = int(time.time() * 1000) if started_ms is None else started_ms
        parent = Parent(run_uid or uuid.uuid4().hex, name, kind, sweep_dir, began)
        write_json_atomic(sweep_dir / PARENT_FILE, _values(parent))
    return parent


def read_parent(folder: Path) -> Parent | None:
    """The parent that a sweep's folder, or a run's, declares."""
    values = read_json(folder / PARENT_FILE)
    if not isinstance(values, Mapping) or not values.get("run_uid"):
        return None
    started = values.get("started_ms")
    return Parent(
        run_uid=str(values["run_uid"]),
        name=str(values.get("name") or folder.name),
        kind="grid" if values.get("kind") == "grid" else "study",
        folder=folder,
        started_ms=started if isinstance(started, int) else None,
    )


def parent_of(run_dir: Path, environment: Mapping[str, str] = os.environ) -> Parent | None:
    """The parent of a run: by its own `parent.json`, that of a folder above it, or the environment's.

    What only the environment says is written into the run's folder, for a mirror that comes later.
    """
    resolved = run_dir.resolve()
    for folder in (resolved, *list(resolved.parents)[:_LEVELS]):
        if (parent := read_parent(folder)) is not None:
            return parent
    named = environment.get(PARENT_VARIABLE)
    parent = read_parent(Path(named)) if named else None
    if parent is not None:
        write_json_atomic(run_dir / PARENT_FILE, _values(parent))
    return parent


def _values(parent: Parent) -> dict[str, Any]:
    return {
        "run_uid": parent.run_uid,
        "name": parent.name,
        "kind": parent.kind,
        "started_ms": parent.started_ms,
    }
