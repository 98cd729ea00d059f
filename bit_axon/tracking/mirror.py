"""Copies what is new in a run directory to its MLflow run; copying twice changes nothing."""

import json
from pathlib import Path
from typing import Any

from bit_axon.files import sha256_file
from bit_axon.tracking import facts as run_facts
from bit_axon.tracking.mlflow_api import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    MlflowException,
    Param,
    RunTag,
)
from bit_axon.tracking.parent import parent_of
from bit_axon.tracking.parent_mirror import PARENT_TAG, parent_run_id
from bit_axon.tracking.points import METRICS_FILE, READ_BYTES, Point, read_piece, tail_digest
from bit_axon.tracking.state import MirrorState, load_state, save_state
from bit_axon.tracking.store import Store

_BATCH_POINTS = 1000  # MLflow's limit for one request
_RUN_UID_TAG = "bit_axon.run_uid"
_STATE_TAG = "bit_axon.state"
_ADAPTER_FOLDER = "adapter"
_SAMPLES_TABLE = "samples.json"
_FIGURE_FOLDER = "figures"
_START_FILES = ("config.yaml", "repro.json")
# File of the run directory -> folder in the artifact store; `adapter/` loads in mlx-lm as it is.
_END_FILES: dict[str, str | None] = {
    "config.yaml": None,
    "repro.json": None,
    "result.json": None,
    METRICS_FILE: None,
    "samples.jsonl": None,
    "thermal.csv": None,
    "adapter_config.json": _ADAPTER_FOLDER,
    "adapters.safetensors": _ADAPTER_FOLDER,
}


class Mirror:
    """The MLflow run of one run directory.

    Points keep their original time stamps, so sending one again does not double it; a metric's steps
    that are there already are dropped, so a resumed run goes on where its first part was cut.
    Every method raises MlflowException when the store fails; calling it again goes on from there.
    """

    def __init__(self, run_dir: Path, store: Store) -> None:
        self._run_dir = run_dir
        self._store = store
        self._client = store.client
        uid = run_facts.read_facts(run_dir).repro.get("run_uid")
        self._state = load_state(run_dir, store.uri, store.experiment, str(uid) if uid else None)
        self._run_id = ""
        self._known_params: set[str] = set()
        self.sent_points = 0
        self.broken_lines = 0

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty before `attach`."""
        return self._run_id

    def attach(self) -> None:
        """Finds the run by its id or its uid, or makes it, and sends what is known from the start."""
        run = self._stored_run() or self._run_with_uid()
        if run is None:
            self._create_run()
        else:
            self._adopt(run)
            self._nest(run)
        self._check_offset()
        self._describe()

    def mark_running(self) -> None:
        """Shows the run as going on, also when an earlier part of it had ended."""
        self._state.complete = False
        self._client.update_run(self._run_id, status="RUNNING")
        self._client.set_tag(self._run_id, _STATE_TAG, "running")

    def advance(self, read_bytes: int = READ_BYTES) -> bool:
        """Sends a piece of the new metrics; True when there may be more."""
        path = self._run_dir / METRICS_FILE
        state = self._state
        piece = read_piece(path, state.synced_offset, read_bytes)
        if piece.offset == state.synced_offset:
            return False
        last_steps = dict(state.last_steps)
        fresh = [point for point in piece.points if _is_next(point, last_steps)]
        for start in range(0, len(fresh), _BATCH_POINTS):
            self._send(fresh[start : start + _BATCH_POINTS])
        times = [point.time_ms for point in piece.points]
        state.last_steps = last_steps
        state.last_time_ms = max([*times, state.last_time_ms or 0]) or None
        state.synced_offset, state.synced_tail = piece.offset, tail_digest(path, piece.offset)
        save_state(self._run_dir, state)
        self.sent_points += len(fresh)
        self.broken_lines += piece.broken_lines
        return piece.more

    def finish(self) -> None:
        """Sends the end: final figures, artifacts, MLflow's status, and last the figures."""
        self._describe()
        facts = run_facts.read_facts(self._run_dir)
        self._send_result(facts)
        for name, folder in _END_FILES.items():
            self._upload(name, folder)
        self._send_samples()
        self._terminate(facts)
        self._send_figure()
        self._state.complete = bool(facts.result)
        save_state(self._run_dir, self._state)

    def _stored_run(self) -> Any:
        if self._state.run_id is None:
            return None
        try:
            run = self._client.get_run(self._state.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _run_with_uid(self) -> Any:
        query = f"tags.`{_RUN_UID_TAG}` = '{self._state.run_uid}'"
        found = self._client.search_runs([self._store.experiment_id], query, max_results=1)
        return found[0] if found else None

    def _create_run(self) -> None:
        fresh = MirrorState(self._store.uri, self._store.experiment, self._state.run_uid)
        save_state(self._run_dir, fresh)  # the uid is on disk before the run exists: no second run, ever
        run = self._client.create_run(
            self._store.experiment_id,
            start_time=self._first_time_ms(),
            tags={_RUN_UID_TAG: fresh.run_uid, _STATE_TAG: "running", **self._parent_tag()},
            run_name=run_facts.run_name(self._run_dir.resolve()),
        )
        self._state = fresh
        self._adopt(run)

    def _parent_tag(self) -> dict[str, str]:
        """Puts the run under the one of its study or grid, when it has one."""
        parent = parent_of(self._run_dir)
        return {} if parent is None else {PARENT_TAG: parent_run_id(self._store, parent)}

    def _nest(self, run: Any) -> None:
        """A run that was mirrored before its folder belonged to a sweep."""
        if PARENT_TAG not in run.data.tags:
            for key, parent_id in self._parent_tag().items():
                self._client.set_tag(self._run_id, key, parent_id)

    def _adopt(self, run: Any) -> None:
        self._run_id = str(run.info.run_id)
        self._known_params = set(run.data.params)
        if self._state.run_id != self._run_id:
            uid = self._state.run_uid
            self._state = MirrorState(self._store.uri, self._store.experiment, uid, run_id=self._run_id)
            save_state(self._run_dir, self._state)

    def _first_time_ms(self) -> int | None:
        points = read_piece(self._run_dir / METRICS_FILE, 0, 1).points
        return points[0].time_ms if points else None

    def _check_offset(self) -> None:
        """Reads a file that was cut or rewritten from its start; steps already sent stay dropped."""
        state = self._state
        if state.synced_tail != tail_digest(self._run_dir / METRICS_FILE, state.synced_offset):
            state.synced_offset = 0

    def _describe(self) -> None:
        files = [self._run_dir / name for name in _START_FILES]
        digest = " ".join(sha256_file(path) for path in files if path.is_file())
        if digest == self._state.described:
            return
        facts = run_facts.read_facts(self._run_dir)
        params = run_facts.params(facts.config)
        self._client.log_batch(
            self._run_id,
            params=[Param(key, value) for key, value in params.items() if key not in self._known_params],
            tags=[RunTag(key, value) for key, value in run_facts.start_tags(facts).items()],
            synchronous=True,
        )
        self._known_params |= params.keys()
        inputs = [_dataset_input(fact) for fact in run_facts.datasets(facts.repro)]
        if inputs:
            self._client.log_inputs(self._run_id, datasets=inputs)
        for name in _START_FILES:
            self._upload(name, None)
        self._state.described = digest
        save_state(self._run_dir, self._state)

    def _send(self, points: list[Point]) -> None:
        metrics = [Metric(point.name, point.value, point.time_ms, point.step) for point in points]
        self._client.log_batch(self._run_id, metrics=metrics, synchronous=True)

    def _end_time_ms(self) -> int | None:
        if self._state.last_time_ms is not None:
            return self._state.last_time_ms
        result = self._run_dir / "result.json"
        return int(result.stat().st_mtime * 1000) if result.is_file() else None

    def _send_result(self, facts: run_facts.RunFacts) -> None:
        tags = run_facts.end_tags(facts)
        self._client.log_batch(
            self._run_id, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True
        )
        path = self._run_dir / "result.json"
        digest = sha256_file(path) if facts.result else ""
        if digest == self._state.result:
            return
        time_ms, step = self._end_time_ms() or 0, int(facts.result.get("step") or 0)
        metrics = run_facts.final_metrics(facts.result)
        self._send([Point(name, value, time_ms, step) for name, value in metrics.items()])
        self._state.result = digest

    def _terminate(self, facts: run_facts.RunFacts) -> None:
        """A run without a result was killed: nothing else leaves a run directory so."""
        state = str(facts.result.get("state") or "interrupted")
        if not facts.result:
            self._client.set_tag(self._run_id, _STATE_TAG, state)
        status = run_facts.mlflow_status(state)
        self._client.set_terminated(self._run_id, status=status, end_time=self._end_time_ms())

    def _upload(self, name: str, folder: str | None) -> bool:
        """True when the file is there and was not sent before as it is now."""
        path = self._run_dir / name
        digest = sha256_file(path) if path.is_file() else None
        if digest is None or self._state.artifacts.get(name) == digest:
            return False
        self._client.log_artifact(self._run_id, str(path), folder)
        self._state.artifacts[name] = digest
        save_state(self._run_dir, self._state)
        return True

    def _send_samples(self) -> None:
        """The table in the form MLflow's interface shows and `mlflow.load_table` reads."""
        table = run_facts.samples_table(self._run_dir / "samples.jsonl")
        if table is None:
            return
        self._client.log_text(self._run_id, json.dumps(table, ensure_ascii=False), _SAMPLES_TABLE)
        shown = json.dumps([{"path": _SAMPLES_TABLE, "type": "table"}])
        self._client.set_tag(self._run_id, "mlflow.loggedArtifacts", shown)

    def _send_figure(self) -> None:
        # Matplotlib takes half a second to import, and only an ended run needs it.
        from bit_axon.tracking.figures import LOSS_FIGURE, write_loss_figure
        from bit_axon.tracking.thermal_figure import THERMAL_FIGURE, write_thermal_figure

        metrics_digest = self._state.artifacts.get(METRICS_FILE, "")
        if self._state.artifacts.get("figure_of") == metrics_digest:
            return
        if write_loss_figure(self._run_dir) is not None:
            self._upload(LOSS_FIGURE, _FIGURE_FOLDER)
        if write_thermal_figure(self._run_dir) is not None:
            self._upload(THERMAL_FIGURE, _FIGURE_FOLDER)
        self._state.artifacts["figure_of"] = metrics_digest


def _is_next(point: Point, last_steps: dict[str, int]) -> bool:
    """True, and noted, when the metric has no value at this step or a later one yet."""
    last = last_steps.get(point.name)
    if last is not None and point.step <= last:
        return False
    last_steps[point.name] = point.step
    return True


def _dataset_input(fact: run_facts.DatasetFact) -> DatasetInput:
    rows = {} if fact.rows is None else {"rows": fact.rows}
    dataset = Dataset(
        name=fact.name,
        digest=fact.digest,
        source_type=fact.source_kind,
        source=json.dumps({"uri": fact.source}),
        profile=json.dumps(rows),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", fact.context)])
