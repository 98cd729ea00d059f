"""Studies and grids in a real MLflow store: one parent, runs below it, and what the parent says."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from sweep_cases import METRIC, SPACE, end_trial, make_grid, make_study, run_trial, trial_run
from tracking_cases import RESULT, end_run, make_run
from waiting import LONGEST_SECONDS, wait_for

from bit_axon.run_directory import RunDirectory
from bit_axon.sweep.reporting.finding import Sweep, find_sweep, parent_uid
from bit_axon.sweep.reporting.grid_end import end_grid
from bit_axon.sweep.reporting.ledger import LEDGER_FILE, State, tell
from bit_axon.sweep.reporting.mirror import SweepMirror, Target
from bit_axon.sweep.reporting.publish import publish, sync_sweep
from bit_axon.sweep.reporting.results import write_report
from bit_axon.sweep.studies import lease
from bit_axon.tracking.parent import PARENT_FILE, PARENT_VARIABLE, declare_parent, parent_of, read_parent
from bit_axon.tracking.parent_mirror import PARENT_TAG, make_parent, parent_run_id
from bit_axon.tracking.store import Store, open_store
from bit_axon.tracking.sync import sync_run


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> str:
    """A store of this module's own."""
    return f"sqlite:///{shutil.copy(mlflow_database, tmp_path_factory.mktemp('store'))}"


@pytest.fixture
def store(uri: str, tmp_path: Path) -> Store:
    """An experiment of the test's own."""
    return open_store(uri, tmp_path.name)


def runs_of(store: Store) -> list[Any]:
    return list(store.client.search_runs([store.experiment_id]))


def parents(store: Store) -> list[Any]:
    return [run for run in runs_of(store) if "bit_axon.kind" in run.data.tags]


def children(store: Store, parent_id: str) -> dict[str, Any]:
    """The runs below a parent, by the name of their folder."""
    found = [run for run in runs_of(store) if run.data.tags.get(PARENT_TAG) == parent_id]
    return {Path(run.data.tags["bit_axon.run_dir"]).name: run for run in found}


def points(store: Store, run_id: str, name: str) -> list[tuple[int, float]]:
    history = store.client.get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in history)


def test_a_parent_is_declared_once(tmp_path: Path) -> None:
    first = declare_parent(tmp_path, "ranks", "study")
    again = declare_parent(tmp_path, "other", "grid")
    assert (again.run_uid, again.name, again.kind) == (first.run_uid, "ranks", "study")
    assert declare_parent(tmp_path, "ranks", "study", "shared").run_uid == "shared"


def test_a_run_finds_its_parent_above_it_or_in_the_environment(tmp_path: Path) -> None:
    sweep, apart = tmp_path / "sweep", tmp_path / "apart" / "run"
    declared = declare_parent(sweep, "ranks", "study")
    for run_dir in (sweep / "7", sweep / "fold" / "7", apart):
        run_dir.mkdir(parents=True)
    assert parent_of(sweep / "7", {}) == parent_of(sweep / "fold" / "7", {}) == declared
    assert parent_of(apart, {}) is None
    told = parent_of(apart, {PARENT_VARIABLE: str(sweep)})
    assert told is not None and told.run_uid == declared.run_uid
    later = parent_of(apart, {})  # by `track sync`, in another process
    assert later is not None and later.run_uid == declared.run_uid
    assert parent_of(apart, {PARENT_VARIABLE: str(tmp_path / "gone")}) == read_parent(apart)


def test_runs_of_a_sweep_are_nested_whoever_mirrors_them_first(tmp_path: Path, store: Store) -> None:
    declare_parent(tmp_path / "sweep", "ranks", "study")
    for number in range(3):
        run_dir = make_run(tmp_path / "sweep" / str(number), steps=3, result=RESULT)
        sync_run(run_dir, store.uri, experiment=store.experiment)
    alone = make_run(tmp_path / "alone", steps=3, result=RESULT)
    sync_run(alone, store.uri, experiment=store.experiment)
    (parent,) = parents(store)
    assert parent.info.run_name == "ranks"
    assert set(children(store, parent.info.run_id)) == {"0", "1", "2"}
    assert len(runs_of(store)) == 5


def test_a_run_mirrored_before_its_sweep_was_known_is_nested_later(tmp_path: Path, store: Store) -> None:
    run_dir = make_run(tmp_path / "sweep" / "0", steps=3)
    sync_run(run_dir, store.uri, experiment=store.experiment)
    declare_parent(tmp_path / "sweep", "ranks", "study")
    end_run(run_dir, RESULT)
    sync_run(run_dir, store.uri, experiment=store.experiment)
    (parent,) = parents(store)
    assert set(children(store, parent.info.run_id)) == {"0"}


def test_several_at_once_make_one_parent(tmp_path: Path, store: Store) -> None:
    parent = declare_parent(tmp_path / "sweep", "ranks", "study")
    found: list[str] = []

    def ask() -> None:
        found.append(parent_run_id(open_store(store.uri, store.experiment), parent))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 4
    assert len(parents(store)) == 1


def test_parents_that_two_machines_made_at_once_become_one(tmp_path: Path, store: Store) -> None:
    """They have no lock in common; each has mirrored a trial below its own already."""
    study, runs = make_study(tmp_path / "one", trials=1), dict[str, str]()
    study.set_user_attr("parent_uid", "shared")
    for moment, machine in ((2000, "one"), (1000, "other")):  # the one made later says it began earlier
        parent = declare_parent(tmp_path / machine, "ranks", "study", "shared", started_ms=moment)
        runs[machine] = make_parent(store, parent)
        run_dir = make_run(tmp_path / machine / "0", steps=2, result=RESULT)
        client_tag = {PARENT_TAG: runs[machine], "bit_axon.run_dir": f"{machine}/{run_dir.name}"}
        store.client.create_run(store.experiment_id, tags=client_tag)
    assert len(set(runs.values())) == 2 == len(parents(store))
    run_id = publish(Sweep(tmp_path / "one", study), tmp_path / "one", store, "finished").run_id
    (parent_run,) = parents(store)
    below = [run for run in runs_of(store) if run.data.tags.get(PARENT_TAG) == run_id]
    assert parent_run.info.run_id == run_id == runs["other"]
    assert {run.data.tags["bit_axon.run_dir"].split("/")[0] for run in below} >= {"one", "other"}
    assert not [run for run in runs_of(store) if run.data.tags.get(PARENT_TAG) == runs["one"]]


def test_a_trial_of_another_machine_that_was_killed_is_ended(tmp_path: Path, store: Store) -> None:
    """Its run directory is not here, and the process that would have ended it in MLflow is gone."""
    folder = tmp_path / "ranks"
    study = make_study(folder, trials=4)
    parent_id = parent_run_id(store, declare_parent(folder, "ranks", "study"))
    for number in (2, 3):
        tags = {PARENT_TAG: parent_id, "bit_axon.run_dir": str(folder / str(number))}
        store.client.create_run(store.experiment_id, tags=tags)
    publish(Sweep(folder, study), folder, store, "interrupted")
    below = children(store, parent_id)
    assert (below["2"].info.status, below["3"].info.status) == ("KILLED", "FINISHED")
    assert below["2"].data.tags["bit_axon.trial_reason"] == "killed"


def test_the_uid_of_a_study_is_the_same_for_every_worker(tmp_path: Path) -> None:
    study = make_study(tmp_path / "sweep", trials=1)
    url = f"sqlite:///{tmp_path}/sweep/study.db"
    uid = parent_uid(study, url)
    found = find_sweep(str(tmp_path / "sweep")).study
    assert found is not None and parent_uid(found, url) == uid


@dataclass(frozen=True)
class PublishedStudy:
    """A study of nine trials with their runs, and its parent."""

    study: optuna.Study
    store: Store
    parent: Any
    left_out: tuple[Path, ...]


@pytest.fixture(scope="module")
def published(uri: str, tmp_path_factory: pytest.TempPathFactory) -> PublishedStudy:
    """Made once: mirroring nine runs takes seconds."""
    folder = tmp_path_factory.mktemp("study") / "ranks"
    study, store = make_study(folder, trials=9, wanted=8, with_runs=True), open_store(uri, "published")
    found = Sweep(folder, study)
    done = publish(found, folder, store, "finished", write_report(found.report(), folder))
    return PublishedStudy(study, store, store.client.get_run(done.run_id), done.left_out)


def test_the_parent_says_what_was_found(published: PublishedStudy) -> None:
    parent, best = published.parent, published.study.best_trial
    tags = parent.data.tags
    assert (len(parents(published.store)), published.left_out) == (1, ())
    assert (parent.info.run_name, parent.info.status) == ("ranks", "FINISHED")
    assert (tags["bit_axon.state"], tags["bit_axon.sampler"]) == ("finished", "name=random seed=3")
    assert (tags["best.trial"], tags["best.adapter.rank"]) == (
        str(best.number),
        str(best.params["adapter.rank"]),
    )
    assert parent.data.params["space.adapter.rank"] == "tag(log, int(interval(2, 64)))"
    assert parent.data.params["space.adapter.scale"] == "1 to 32"
    assert parent.data.params["space.adapter.name"] == "dora, lora"
    assert f"| {best.number} | {best.value:.6g} |" in tags["mlflow.note.content"]


def test_every_trial_is_below_it_with_its_state_and_reason(published: PublishedStudy) -> None:
    below = children(published.store, published.parent.info.run_id)
    tags = {name: run.data.tags for name, run in below.items()}
    best = str(published.study.best_trial.number)
    assert set(below) == {str(number) for number in range(9)}
    assert [found["bit_axon.trial"] for found in tags.values()] == list(below)
    assert (tags["2"]["bit_axon.trial_state"], below["2"].info.status) == ("retried", "KILLED")
    assert (tags["5"]["bit_axon.trial_state"], tags["5"]["bit_axon.trial_reason"]) == ("failed", "nan")
    assert tags[best]["bit_axon.trial_state"] == "complete"
    assert tags["3"]["bit_axon.retry_of"] == "2"
    assert [name for name, found in tags.items() if found["bit_axon.best"] == "true"] == [best]
    pruned = next(name for name, found in tags.items() if found["bit_axon.trial_state"] == "pruned")
    assert below[pruned].info.status == "FINISHED"
    assert tags[pruned]["bit_axon.trial_reason"] == "pruned:median"
    assert tags["0"]["bit_axon.study"] == "ranks"
    assert not [key for key in below["0"].data.params if key.startswith("trial")]


def test_the_parent_has_the_history(published: PublishedStudy) -> None:
    study, store, run_id = published.study, published.store, published.parent.info.run_id
    complete = {trial.number: trial.value for trial in study.trials if trial.state.name == "COMPLETE"}
    assert dict(points(store, run_id, f"objective/{METRIC}")) == complete
    best = [value for _, value in points(store, run_id, f"best/{METRIC}")]
    assert best[-1] == study.best_value and best == sorted(best, reverse=True)
    assert points(store, run_id, "best/adapter.rank")[-1][1] == study.best_params["adapter.rank"]


def test_the_parent_has_figures_and_results(published: PublishedStudy, tmp_path: Path) -> None:
    study, store, run_id = published.study, published.store, published.parent.info.run_id
    items = [item.path for where in ("", "report") for item in store.client.list_artifacts(run_id, where)]
    figures = {f"report/{name}.png" for name in ("history", "importance", "parallel", "curves")}
    assert set(items) >= {"optimization_results.yaml", "report/trials.json", *figures}
    path = store.client.download_artifacts(run_id, "optimization_results.yaml", str(tmp_path))
    results = yaml.safe_load(Path(path).read_text())
    assert (results["best_params"], results["best_value"]) == (study.best_params, study.best_value)
    assert results["trials"]["retried"] == 1


@pytest.mark.slow
def test_publishing_again_after_more_trials_doubles_nothing(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "ranks"
    study = make_study(folder, trials=3, wanted=5, with_runs=True)
    found = Sweep(folder, study)
    first = publish(found, folder, store, "interrupted")
    run = store.client.get_run(first.run_id)
    assert (run.info.status, run.data.tags["bit_axon.state"]) == ("KILLED", "interrupted")
    for _ in range(4):
        run_trial(study, folder, with_runs=True)
    for _ in range(2):
        assert publish(found, folder, store, "finished").run_id == first.run_id
    run = store.client.get_run(first.run_id)
    assert (run.info.status, len(parents(store)), len(runs_of(store))) == ("FINISHED", 1, 8)
    steps = [step for step, _ in points(store, first.run_id, f"objective/{METRIC}")]
    assert len(steps) == len(set(steps))
    assert run.data.tags["best.trial"] == str(study.best_trial.number)


def test_a_sweep_that_others_work_on_goes_on(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "ranks"
    study = make_study(folder, trials=4)
    study.ask({})
    run_id = publish(Sweep(folder, study), folder, store, "interrupted").run_id
    assert store.client.get_run(run_id).info.status == "RUNNING"


def test_a_grid_is_nested_and_compared_in_the_same_way(tmp_path: Path, store: Store) -> None:
    folder = make_grid(tmp_path / "grid", seeds=(0, 1))
    found = find_sweep(str(folder))
    publish(found, folder, store, "finished", write_report(found.report(), folder))
    (parent,) = parents(store)
    tags = parent.data.tags
    assert (tags["bit_axon.kind"], parent.info.status) == ("grid", "FINISHED")
    assert (tags["best.adapter.name"], tags["best.seed"]) == ("dora", "0")
    assert parent.data.params["space.seed"] == "0, 1"
    assert len(children(store, parent.info.run_id)) == 4
    items = {item.path for item in store.client.list_artifacts(parent.info.run_id, "report")}
    assert items >= {"report/parallel.png", "report/importance.png", "report/history.png"}


def status(store: Store, run_id: str) -> str:
    return str(store.client.get_run(run_id).info.status)


def ended_grid(folder: Path, store: Store, state: State = "finished") -> str:
    """A grid with two runs that its own process has mirrored; MLflow's id of its parent."""
    make_grid(folder, seeds=(0,))
    end_grid(folder, {"enabled": True, "uri": store.uri, "experiment": store.experiment}, state)
    (parent,) = parents(store)
    return str(parent.info.run_id)


@pytest.mark.slow
def test_track_sync_takes_a_whole_sweep_into_another_store(tmp_path: Path, store: Store) -> None:
    """Runs and parent, though another store has all of them."""
    folder = tmp_path / "grid"
    first = ended_grid(folder, store)
    shutil.copy(store.uri.removeprefix("sqlite:///"), tmp_path / "other.db")
    other = open_store(f"sqlite:///{tmp_path}/other.db", store.experiment)
    for run in runs_of(other):
        other.client.delete_run(run.info.run_id)
    run_id = sync_sweep(folder, other.uri).run_id
    assert run_id != first and other.client.get_run(run_id).info.run_name == "grid"
    assert set(children(other, run_id)) == {"0", "1"}
    assert sync_sweep(folder).run_id == run_id  # where its runs are now
    assert (folder / PARENT_FILE).is_file() and set(children(store, first)) == {"0", "1"}


@pytest.mark.parametrize(
    ("state", "expected"), [("finished", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")]
)
def test_a_grid_that_has_ended_stays_as_it_ended(
    tmp_path: Path, store: Store, state: State, expected: str
) -> None:
    run_id = ended_grid(tmp_path / "grid", store, state)
    assert status(store, run_id) == expected
    assert sync_sweep(tmp_path / "grid").run_id == run_id
    assert status(store, run_id) == expected


def test_a_grid_of_an_earlier_version_is_judged_by_its_runs(tmp_path: Path, store: Store) -> None:
    run_id = ended_grid(tmp_path / "grid", store)
    (tmp_path / "grid" / LEDGER_FILE).unlink()
    sync_sweep(tmp_path / "grid")
    assert status(store, run_id) == "FINISHED"
    (tmp_path / "grid" / "1" / "result.json").unlink()
    old = time.time() - 1e5
    os.utime(tmp_path / "grid" / "1" / "metrics.jsonl", (old, old))
    sync_sweep(tmp_path / "grid")
    assert status(store, run_id) == "KILLED"


def mirrored(folder: Path, study: optuna.Study, store: Store, state: State) -> str:
    """Sends a study as its own process does; MLflow's id of its parent."""
    target = Target(uri=store.uri, experiment=store.experiment)
    mirror = SweepMirror(folder, lambda: Sweep(folder, study), target)
    mirror.start()
    assert mirror.close(state, LONGEST_SECONDS)
    (parent,) = parents(store)
    return str(parent.info.run_id)


@pytest.mark.slow
@pytest.mark.parametrize(("state", "expected"), [("finished", "FINISHED"), ("failed", "FAILED")])
def test_a_study_that_ended_before_its_time_stays_as_it_ended(
    tmp_path: Path, store: Store, state: State, expected: str
) -> None:
    """By timeout_minutes, or by max_failures."""
    folder = tmp_path / "ranks"
    run_id = mirrored(folder, make_study(folder, trials=2, with_runs=True), store, state)
    assert sync_sweep(folder).run_id == run_id
    assert status(store, run_id) == expected


def test_a_study_with_a_trial_to_be_run_again_is_not_finished(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "ranks"
    study = make_study(folder, trials=1, wanted=2)
    end_trial(study, study.ask(SPACE), optuna.trial.TrialState.FAIL, "interrupted")
    assert status(store, mirrored(folder, study, store, "interrupted")) == "KILLED"


@pytest.mark.slow
def test_a_sweep_that_was_killed_with_its_trial_is_ended(tmp_path: Path, store: Store) -> None:
    """Nobody told an end: not the sweep, not the trial, not the trial's run."""
    folder = tmp_path / "ranks"
    study = make_study(folder, trials=2, with_runs=True)
    run_id = mirrored(folder, study, store, "finished")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    gone = {**lease.identity(), "pid": process.pid}
    trial = study.ask(SPACE)
    trial.set_user_attr("owner", {**gone, "beat": time.time(), "sweeper": gone})
    trial.set_user_attr("run_dir", str(folder / "2"))
    trial_run(folder / "2", "ranks", study.trials[2])
    tell(folder, "running")
    assert status(store, publish(Sweep(folder, study), folder, store, "running").run_id) == "RUNNING"
    ledger = json.loads((folder / LEDGER_FILE).read_text())
    (folder / LEDGER_FILE).write_text(json.dumps({**ledger, "process": gone}))
    assert sync_sweep(folder).run_id == run_id
    below = children(store, run_id)
    assert (status(store, run_id), below["2"].info.status) == ("KILLED", "KILLED")
    assert below["2"].data.tags["bit_axon.trial_reason"] == "lost"


def test_a_grid_that_runs_is_not_ended_by_looking_at_it(tmp_path: Path, store: Store) -> None:
    folder = make_grid(tmp_path / "grid", names=("lora",), seeds=(0, 1))
    (folder / "1" / "result.json").unlink()
    old = time.time() - 1e5  # it waits to cool down, and writes no line
    os.utime(folder / "1" / "metrics.jsonl", (old, old))
    with RunDirectory(folder / "1").locked():
        run_id = publish(Sweep(folder), folder, store, "running").run_id
        assert sync_sweep(folder, store.uri).run_id == run_id
    assert status(store, run_id) == "RUNNING" and set(children(store, run_id)) == {"0"}


def test_a_grid_between_two_jobs_goes_on(tmp_path: Path, store: Store) -> None:
    folder = make_grid(tmp_path / "grid", names=("lora",), seeds=(0,))
    run_id = publish(Sweep(folder), folder, store, "running").run_id
    tell(folder, "running")
    sync_sweep(folder)
    assert status(store, run_id) == "RUNNING"


def test_a_parent_that_was_deleted_by_hand_gets_its_runs_back(tmp_path: Path, store: Store) -> None:
    """Those of another machine too, whose folders are not here."""
    folder = tmp_path / "grid"
    run_id = ended_grid(folder, store)
    tags = {PARENT_TAG: run_id, "bit_axon.run_dir": "/another/machine/7"}
    store.client.create_run(store.experiment_id, tags=tags)
    store.client.delete_run(run_id)
    again = sync_sweep(folder).run_id
    assert again != run_id and set(children(store, again)) == {"0", "1", "7"}


@pytest.mark.slow
def test_a_folder_that_was_moved_has_the_same_runs(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "before"
    study = make_study(folder, trials=2, with_runs=True)
    run_id = mirrored(folder, study, store, "interrupted")
    shutil.move(folder, tmp_path / "after")
    found = find_sweep(str(tmp_path / "after"), {})
    assert found.study is not None
    trial = found.study.ask(SPACE)
    found.study.tell(trial, -1.0)  # the best
    assert sync_sweep(tmp_path / "after").run_id == run_id
    below = children(store, run_id)
    assert set(below) == {"0", "1"} and len(runs_of(store)) == 3
    assert {run.data.tags["bit_axon.best"] for run in below.values()} == {"false"}


def test_the_thread_mirrors_trials_as_they_end(tmp_path: Path, store: Store) -> None:
    folder, said = tmp_path / "ranks", list[str]()
    study = make_study(folder, trials=1, with_runs=True)
    target = Target(uri=store.uri, experiment=store.experiment)
    mirror = SweepMirror(folder, lambda: find_sweep(str(folder)), target, say=said.append, pause_seconds=0.01)
    mirror.start()
    mirror.notify()
    wait_for(lambda: len(runs_of(store)) == 2, "what is sent while the sweep goes on")
    for _ in range(2):
        run_trial(study, folder, with_runs=True)
        mirror.notify()
    assert mirror.close("interrupted", LONGEST_SECONDS)
    (parent,) = parents(store)
    assert len(children(store, parent.info.run_id)) == 3
    assert [line for line in said if "sweep's report" not in line] == []  # that is said if it takes long
    assert (folder / "optimization_results.yaml").is_file()


def test_without_a_store_the_report_is_written_and_the_rest_is_said(tmp_path: Path) -> None:
    folder, said = tmp_path / "ranks", list[str]()
    make_study(folder, trials=2, with_runs=True)
    target = Target(uri="http://127.0.0.1:9", experiment="x")
    mirror = SweepMirror(folder, lambda: find_sweep(str(folder)), target, say=said.append)
    mirror.start()
    assert not mirror.close("finished")
    assert any("no MLflow server answers" in line for line in said)
    assert f"bit-axon track sync {folder}" in said[-1]
    assert (folder / "optimization_results.yaml").is_file()


@pytest.mark.slow
def test_without_tracking_no_mlflow_is_imported(tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    make_study(folder, trials=6)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from bit_axon.sweep.reporting.finding import find_sweep\n"
        "from bit_axon.sweep.reporting.mirror import SweepMirror, Target\n"
        f"folder = Path({str(folder)!r})\n"
        "mirror = SweepMirror(folder, lambda: find_sweep(str(folder)), Target(enabled=False))\n"
        "mirror.start(); mirror.notify()\n"
        "assert mirror.close('finished')\n"
        "assert 'mlflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LONGEST_SECONDS, env=dict(os.environ))
    table = json.loads((folder / "report" / "trials.json").read_text())
    assert [row[0] for row in table["data"]] == list(range(6))
