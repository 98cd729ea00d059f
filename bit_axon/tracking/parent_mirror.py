"""The MLflow side of a parent: found by its uid or made, described by what its sweep has found."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bit_axon.tracking.facts import MAX_PARAM_CHARACTERS, MAX_TAG_CHARACTERS
from bit_axon.tracking.locks import file_lock
from bit_axon.tracking.mlflow_api import Metric, MlflowClient, MlflowException, Param, RunTag
from bit_axon.tracking.parent import Parent
from bit_axon.tracking.points import Point, metric_name, number
from bit_axon.tracking.state import saved_state
from bit_axon.tracking.store import Store

PARENT_TAG: Final = "mlflow.parentRunId"
RUN_DIR_TAG: Final = "bit_axon.run_dir"
_RUN_UID_TAG: Final = "bit_axon.run_uid"
_LOCK_FILE: Final = ".parent.lock"
_LOCK_SECONDS: Final = 60.0
_BATCH_POINTS: Final = 1000  # MLflow's limit for one request
_PAGE_RUNS: Final = 500


@dataclass(frozen=True)
class Child:
    """What the sweep knows of one of its runs; `status` is MLflow's, None while the run goes on."""

    tags: Mapping[str, str]
    status: str | None = None


@dataclass(frozen=True)
class ParentContent:
    """What is shown of a sweep."""

    params: Mapping[str, str] = field(default_factory=dict)  # fixed for the whole sweep
    tags: Mapping[str, str] = field(default_factory=dict)
    points: Sequence[Point] = ()
    files: Mapping[Path, str | None] = field(default_factory=dict)  # file -> folder of the artifact store
    children: Mapping[str, Child] = field(default_factory=dict)  # by the absolute path of the run directory
    status: str | None = None  # MLflow's; None = it goes on
    ended_ms: int | None = None  # unix time


def parent_run_id(store: Store, parent: Parent) -> str:
    """MLflow's id of the parent, which is made when the store has none; two processes make one.

    Raises:
        MlflowException: the store fails.
    """
    with suppress(TimeoutError), file_lock(parent.folder / _LOCK_FILE, _LOCK_SECONDS):
        return _find(store, parent) or make_parent(store, parent)
    return _find(store, parent) or make_parent(store, parent)


def _find(store: Store, parent: Parent) -> str | None:
    """Of several, which two machines may have made at once, the first."""
    return next(iter(_all(store, parent)), None)


def _all(store: Store, parent: Parent) -> list[str]:
    query = f"tags.`{_RUN_UID_TAG}` = '{parent.run_uid}'"
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    found = store.client.search_runs([store.experiment_id], query, order_by=order)
    return [str(run.info.run_id) for run in found]


def make_parent(store: Store, parent: Parent) -> str:
    """Makes the parent's run and returns its id, or that of one made elsewhere at the same moment."""
    tags = {_RUN_UID_TAG: parent.run_uid, "bit_axon.kind": parent.kind, "bit_axon.state": "running"}
    made = store.client.create_run(
        store.experiment_id, start_time=parent.started_ms, tags=tags, run_name=parent.name
    )
    return _find(store, parent) or str(made.info.run_id)


def _merge(store: Store, parent: Parent) -> str:
    """The parent's id, once the children of others with its uid are below it and those are deleted."""
    run_id = parent_run_id(store, parent)
    for other in _all(store, parent):
        if other != run_id:
            for child in _children(store, other):
                store.client.set_tag(child.info.run_id, PARENT_TAG, run_id)
            store.client.delete_run(other)
    return run_id


def publish_parent(store: Store, parent: Parent, content: ParentContent) -> str:
    """Brings the parent and the tags of its children up to date; publishing twice changes nothing.

    Returns:
        MLflow's id of the parent.

    Raises:
        MlflowException: the store fails.
    """
    client, run_id = store.client, _merge(store, parent)
    run = client.get_run(run_id)
    params = {metric_name(key): text[:MAX_PARAM_CHARACTERS] for key, text in content.params.items()}
    client.log_batch(
        run_id,
        params=[Param(key, text) for key, text in params.items() if key not in run.data.params],
        tags=_changed(content.tags, run.data.tags),
        synchronous=True,
    )
    for start in range(0, len(content.points), _BATCH_POINTS):
        piece = content.points[start : start + _BATCH_POINTS]
        client.log_batch(run_id, metrics=[_metric(point) for point in piece], synchronous=True)
    for path, folder in content.files.items():
        client.log_artifact(run_id, str(path), folder)
    _adopt(store, run_id, content.children)
    _update_children(store, run_id, content.children)
    _set_status(client, run, content)
    return run_id


def _metric(point: Point) -> Metric:
    return Metric(metric_name(point.name), number(point.value), point.time_ms, point.step)


def _changed(wanted: Mapping[str, str], known: Mapping[str, str]) -> list[RunTag]:
    cut = {key: text[:MAX_TAG_CHARACTERS] for key, text in wanted.items()}
    return [RunTag(metric_name(key), text) for key, text in cut.items() if known.get(key) != text]


def _set_status(client: MlflowClient, run: Any, content: ParentContent) -> None:
    status = content.status
    if status is None:
        if run.info.status != "RUNNING":
            client.update_run(run.info.run_id, status="RUNNING")
    elif (run.info.status, run.info.end_time) != (status, content.ended_ms):
        client.set_terminated(run.info.run_id, status=status, end_time=content.ended_ms)


def _update_children(store: Store, parent_id: str, children: Mapping[str, Child]) -> None:
    """Tags what the runs themselves cannot know, and ends those that were killed."""
    for run in _children(store, parent_id):
        child = children.get(run.data.tags.get(RUN_DIR_TAG, ""))
        if child is None:
            continue
        if changed := _changed(child.tags, run.data.tags):
            store.client.log_batch(run.info.run_id, tags=changed, synchronous=True)
        if child.status is not None and run.info.status == "RUNNING":
            store.client.set_terminated(run.info.run_id, status=child.status)


def _adopt(store: Store, parent_id: str, children: Mapping[str, Child]) -> None:
    """Puts runs below the parent that are below one that was deleted: a person may have done so in MLflow.

    One of them that was mirrored on this machine says which parent that was; its other runs follow it.
    """
    there = {run.data.tags.get(RUN_DIR_TAG) for run in _children(store, parent_id)}
    for run_dir in set(children) - there:
        saved = saved_state(Path(run_dir))
        if (saved.get("uri"), saved.get("experiment")) != (store.uri, store.experiment):
            continue
        run = _active(store, saved.get("run_id"))
        former = run.data.tags.get(PARENT_TAG) if run is not None else parent_id
        if former != parent_id:
            is_gone = former is not None and _active(store, former) is None
            for each in _children(store, former) if is_gone else [run]:
                store.client.set_tag(each.info.run_id, PARENT_TAG, parent_id)


def _active(store: Store, run_id: str | None) -> Any:
    """The run; None when it was deleted."""
    if not run_id:
        return None
    try:
        run = store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _children(store: Store, parent_id: str) -> list[Any]:
    query, token, found = f"tags.`{PARENT_TAG}` = '{parent_id}'", None, list[Any]()
    while True:
        page = store.client.search_runs(
            [store.experiment_id], query, max_results=_PAGE_RUNS, page_token=token
        )
        found += page
        token = page.token
        if not token:
            return found
