"""Brings MLflow up to date with run directories, whenever that is."""

from dataclasses import dataclass
from pathlib import Path

from bit_axon.errors import BitAxonError, RunDirectoryError, problem
from bit_axon.tracking.facts import read_facts
from bit_axon.tracking.location import absolute_uri, plain_reason, redacted
from bit_axon.tracking.locks import mirroring
from bit_axon.tracking.mirror import Mirror
from bit_axon.tracking.mlflow_api import MlflowException
from bit_axon.tracking.points import METRICS_FILE
from bit_axon.tracking.state import saved_state
from bit_axon.tracking.store import open_store

DEFAULT_EXPERIMENT = "bit_axon"


@dataclass(frozen=True)
class SyncReport:
    """What a sync did."""

    run_dir: Path
    uri: str
    experiment: str
    run_id: str
    sent_points: int
    broken_lines: int


def sync_run(
    run_dir: Path, uri: str | None = None, *, experiment: str | None = None, wait_seconds: float = 1.0
) -> SyncReport:
    """Mirrors all of a run that has ended; harmless when everything is there already.

    `uri` and `experiment` None mean those the run was mirrored to before, else those of its config.
    `wait_seconds` is how long another process may hold the run before it counts as going on.

    Raises:
        RunDirectoryError: the folder is no run directory, or its run is still being mirrored.
        BitAxonError: the store cannot be reached or refuses.
    """
    if not (run_dir / "config.yaml").is_file() and not (run_dir / METRICS_FILE).is_file():
        raise RunDirectoryError(
            problem(
                "a run directory, with config.yaml and metrics.jsonl",
                f"{run_dir}, which has neither",
                "Name a folder below outputs/runs.",
            )
        )
    target, experiment = _target(run_dir, uri, experiment)
    with mirroring(run_dir, wait_seconds):
        try:
            store = open_store(target, experiment)
            mirror = Mirror(run_dir, store)
            mirror.attach()
            while mirror.advance():
                pass
            mirror.finish()
        except MlflowException as error:
            raise _unreachable(run_dir, target, error) from error
    return SyncReport(run_dir, target, experiment, mirror.run_id, mirror.sent_points, mirror.broken_lines)


def _target(run_dir: Path, uri: str | None, experiment: str | None) -> tuple[str, str]:
    saved = saved_state(run_dir)
    tracking = read_facts(run_dir).config.get("tracking") or {}
    chosen = uri or saved.get("uri") or tracking.get("uri")
    experiment = experiment or saved.get("experiment") or tracking.get("experiment") or DEFAULT_EXPERIMENT
    return absolute_uri(chosen), str(experiment)


def _unreachable(run_dir: Path, uri: str, error: MlflowException) -> BitAxonError:
    return BitAxonError(
        problem(
            f"to mirror {run_dir} to MLflow",
            plain_reason(error, uri),
            f"Nothing is lost. Try again later, or send it elsewhere with --uri (now {redacted(uri)}).",
        )
    )
