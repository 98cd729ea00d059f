"""Which run directories MLflow has, wholly or in part. Reads files only; no MLflow is imported."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bit_axon.files import outputs_dir
from bit_axon.tracking.facts import read_facts
from bit_axon.tracking.location import redacted
from bit_axon.tracking.points import METRICS_FILE
from bit_axon.tracking.state import saved_state


@dataclass(frozen=True)
class TrackingStatus:
    """How far the mirror of one run directory is."""

    run_dir: Path
    state: str  # of the run; "-" while it has no result
    uri: str  # "-" when it was never mirrored
    unsent_bytes: int  # of metrics.jsonl
    complete: bool  # MLflow has everything


def run_directories(root: Path | None = None) -> list[Path]:
    """All run directories below the outputs folder, oldest first by name."""
    base = root or outputs_dir()
    return sorted({path.parent for path in _metrics_files(base)})


def _metrics_files(base: Path) -> Iterator[Path]:
    for pattern in ("runs/*", "sweeps/*/*", "sweeps/*/*/*"):
        yield from base.glob(f"{pattern}/{METRICS_FILE}")


def tracking_status(run_dir: Path) -> TrackingStatus:
    """Compares `mlflow.json` with the files it is about."""
    saved = saved_state(run_dir)
    metrics = run_dir / METRICS_FILE
    size_bytes = metrics.stat().st_size if metrics.is_file() else 0
    unsent_bytes = max(0, size_bytes - int(saved.get("synced_offset") or 0))
    return TrackingStatus(
        run_dir=run_dir,
        state=str(read_facts(run_dir).result.get("state") or "-"),
        uri=redacted(str(saved["uri"])) if saved.get("run_id") else "-",
        unsent_bytes=unsent_bytes,
        complete=bool(saved.get("complete")) and unsent_bytes == 0,
    )
