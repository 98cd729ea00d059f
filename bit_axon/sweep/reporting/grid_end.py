"""The end of a grid (`-m adapter=lora,dora seed=0,1,2`): its report, and its parent in MLflow."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bit_axon.errors import StorageError
from bit_axon.sweep.reporting.finding import Sweep
from bit_axon.sweep.reporting.ledger import Job, State, tell
from bit_axon.sweep.reporting.mirror import SweepMirror, Target
from bit_axon.tracking.places import runs_below


def end_grid(folder: Path, tracking: Mapping[str, Any], state: State, jobs: Iterable[Job] = ()) -> None:
    """Writes the report of the runs in `folder` and tells their parent; what goes wrong is only said.

    Args:
        folder: of the grid.
        tracking: that part of a job's config.
        state: how the grid ended.
        jobs: that have begun; those of before are known.
    """
    if not runs_below(folder):
        return
    with suppress(StorageError):  # the mirror says it
        tell(folder, "running", jobs)
    target = Target(tracking["enabled"], tracking["uri"], tracking["experiment"])
    mirror = SweepMirror(folder, lambda: Sweep(folder), target)
    mirror.start()
    mirror.close(state)
