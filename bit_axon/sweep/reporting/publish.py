"""A sweep in MLflow: its runs mirrored, nested under one parent, and the parent told what was found."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bit_axon.errors import BitAxonError, RunDirectoryError, problem
from bit_axon.sweep.reporting.description import points, space, tags, time_ms
from bit_axon.sweep.reporting.finding import Sweep, find_sweep
from bit_axon.sweep.reporting.ledger import State, read_ledger
from bit_axon.sweep.reporting.report import ENDED, Report, Row, order_of_end
from bit_axon.sweep.reporting.results import REPORT_FOLDER, write_report
from bit_axon.tracking.facts import read_facts
from bit_axon.tracking.location import absolute_uri, plain_reason
from bit_axon.tracking.mlflow_api import MlflowException
from bit_axon.tracking.parent import declare_parent
from bit_axon.tracking.parent_mirror import Child, ParentContent, publish_parent
from bit_axon.tracking.places import is_run
from bit_axon.tracking.state import saved_state
from bit_axon.tracking.status import tracking_status
from bit_axon.tracking.store import Store, open_store
from bit_axon.tracking.sync import DEFAULT_EXPERIMENT, sync_run

_STATUS: Final = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED", "running": None}
_KILLED: Final = ("killed", "lost", "interrupted", "timeout", "no result")


@dataclass(frozen=True)
class Published:
    """What a pass did: MLflow's id of the parent, and the runs that could not be mirrored yet."""

    run_id: str
    left_out: tuple[Path, ...]


def publish(
    found: Sweep, folder: Path, store: Store, state: State | None, files: Sequence[Path] = ()
) -> Published:
    """Mirrors the runs that have ended and are not in MLflow yet, then describes the parent.

    Args:
        found: the study or the grid.
        folder: the sweep's.
        store: where to.
        state: of the sweep, as its own process knows it; None = what that process has said of it.
        files: of `write_report`; they become artifacts of the parent.

    Raises:
        MlflowException: the store fails; calling it again goes on from there.
        StorageError: the study's storage does not answer.
    """
    report = found.report(has_ended=state not in ("running", None))
    started = min((row.started for row in report.rows if row.started), default=None)
    parent = declare_parent(folder, report.name, report.kind, found.uid(), time_ms(started) or None)
    left_out = [path for path in _ended_runs(report) if not _mirrored(path, store)]
    known = _state(report, state or _outcome(report, folder))
    content = ParentContent(
        params=space(report),
        tags=tags(report, known),
        points=points(report),
        files={path: REPORT_FOLDER if path.parent == folder / REPORT_FOLDER else None for path in files},
        children=_children(report),
        status=_STATUS[known],
        ended_ms=max((time_ms(row.ended) for row in order_of_end(report)), default=None),
    )
    return Published(publish_parent(store, parent, content), tuple(left_out))


def sync_sweep(folder: Path, uri: str | None = None) -> Published:
    """Mirrors a whole sweep, whenever that is; `uri` None means where its runs were mirrored to.

    Raises:
        RunDirectoryError: there is neither a study nor a run in the folder.
        BitAxonError: the store cannot be reached or refuses.
    """
    found = find_sweep(str(folder))
    target, experiment = _target(found.report(), uri)
    try:
        store = open_store(target, experiment)
        return publish(found, folder, store, None, write_report(found.report(), folder))
    except MlflowException as error:
        raise BitAxonError(
            problem(
                f"to mirror {folder} to MLflow",
                plain_reason(error, absolute_uri(target)),
                "Nothing is lost. Try again later, or send it elsewhere with --uri.",
            )
        ) from error


def _target(report: Report, uri: str | None) -> tuple[str | None, str]:
    """Where the first run that says so is mirrored to."""
    places = [row.run_dir for row in report.rows if row.run_dir is not None]
    saved = next((found for path in places if (found := saved_state(path))), {})
    tracking = next((read_facts(path).config.get("tracking") for path in places), None) or {}
    experiment = saved.get("experiment") or tracking.get("experiment") or DEFAULT_EXPERIMENT
    return uri or saved.get("uri") or tracking.get("uri"), str(experiment)


def _state(report: Report, state: State) -> State:
    """A sweep that has all its trials is finished; one that others work on goes on."""
    if report.kind == "study" and report.is_done:
        return "finished"
    return "running" if report.count("running") else state


def _outcome(report: Report, folder: Path) -> State:
    """How a sweep is that another process runs or ran: as that process has said, else by its rows."""
    ledger = read_ledger(folder)
    if ledger is not None:
        return ledger.outcome
    reasons = {_cause(row) for row in report.rows if row.state in ("failed", "retried")}
    if report.kind == "study" or reasons & set(_KILLED):
        return "interrupted"
    return "failed" if reasons else "finished"


def _ended_runs(report: Report) -> Iterable[Path]:
    rows = (row for row in report.rows if row.state in ENDED)
    return [row.run_dir for row in rows if row.run_dir is not None and is_run(row.run_dir)]


def _mirrored(run_dir: Path, store: Store) -> bool:
    """Sends what this store has not got of a run; False when the run's own process is at it."""
    saved = saved_state(run_dir)
    is_there = (saved.get("uri"), saved.get("experiment")) == (store.uri, store.experiment)
    if is_there and saved.get("run_id") and tracking_status(run_dir).complete:
        return True
    try:
        sync_run(run_dir, store.uri, experiment=store.experiment)
    except RunDirectoryError:  # its own process is at it
        return False
    return True


def _children(report: Report) -> dict[str, Child]:
    """By where a run is, and where it was when it was mirrored: the sweep's folder may have been moved."""
    found: dict[str, Child] = {}
    for row in report.rows:
        for path in (row.noted_dir, row.run_dir):
            if path is not None:
                found[str(path.resolve())] = _child(report, row)
    return found


def _cause(row: Row) -> str:
    """The reason without what was said beside it."""
    return row.reason.partition(":")[0]


def _child(report: Report, row: Row) -> Child:
    said = {
        f"bit_axon.{report.kind}": report.name,
        "bit_axon.trial": str(row.number),
        "bit_axon.trial_state": row.state,
        "bit_axon.trial_reason": row.reason,
        "bit_axon.best": json.dumps(row.number in report.best_numbers),
    }
    if row.retry_of is not None:
        said["bit_axon.retry_of"] = str(row.retry_of)
    if row.state not in ENDED:
        return Child(said)
    status = "FINISHED" if row.state in ("complete", "pruned") else "FAILED"
    return Child(said, "KILLED" if _cause(row) in _KILLED else status)
