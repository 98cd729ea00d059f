"""Which study a folder is of, how its trials are, and what is told when its storage does not answer."""

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sweep_cases import SPACE, end_trial, make_study, run_trial, settings
from tracking_cases import RESULT, make_run
from typer.testing import CliRunner
from waiting import LONGEST_SECONDS

from bit_axon.cli.main import app, main
from bit_axon.cli.sweep_show import _watch, picture
from bit_axon.cli.terminal import run_console
from bit_axon.errors import RunDirectoryError, StorageError
from bit_axon.sweep.reporting.finding import Sweep, find_sweep, parent_uid
from bit_axon.sweep.reporting.mirror import SweepMirror, Target
from bit_axon.sweep.reporting.publish import sync_sweep
from bit_axon.sweep.reporting.report import Report, Row, remaining_seconds
from bit_axon.sweep.reporting.study_report import study_report
from bit_axon.sweep.studies import lease
from bit_axon.sweep.studies.storage import STORAGE_VARIABLE
from bit_axon.tracking.parent import declare_parent


def elsewhere(folder: Path, storage: Path, name: str = "ranks") -> str:
    """Makes a study in another folder than its runs; returns the storage's address."""
    study = make_study(storage, trials=3, name=name)
    url = f"sqlite:///{storage}/study.db"
    declare_parent(folder, name, "study", parent_uid(study, url))
    for number in range(3):
        make_run(folder / str(number), steps=2, result=RESULT)
    return url


def test_a_study_in_a_storage_that_nobody_names_is_no_grid(outputs: Path, tmp_path: Path) -> None:
    folder = outputs / "sweeps" / "ranks"
    url = elsewhere(folder, tmp_path / "storage")
    other = f"sqlite:///{tmp_path}/other.db"
    for environment in ({}, {STORAGE_VARIABLE: other}):
        with pytest.raises(RunDirectoryError, match=f"the study ranks of .*Set {STORAGE_VARIABLE} to the"):
            find_sweep("ranks", environment)
    with pytest.raises(RunDirectoryError, match=STORAGE_VARIABLE):
        sync_sweep(folder)
    assert not (folder / "optimization_results.yaml").exists()
    found = find_sweep("ranks", {STORAGE_VARIABLE: url})
    assert found.study is not None and len(found.report().rows) == 4  # one of them is to be run again


def test_of_several_studies_in_a_storage_the_folders_own_is_found(tmp_path: Path) -> None:
    """Its folder has the name of another one: two machines may call their folders as they like."""
    storage, folder = tmp_path / "storage", tmp_path / "other"
    url = elsewhere(folder, storage, "ranks")
    other = make_study(storage, trials=0, name="other")
    parent_uid(other, url)
    found = find_sweep(str(folder), {STORAGE_VARIABLE: url}).study
    assert found is not None and found.study_name == "ranks"


def test_runs_of_a_folder_that_was_moved_are_found(tmp_path: Path) -> None:
    make_study(tmp_path / "before", trials=4, with_runs=True)
    shutil.move(tmp_path / "before", tmp_path / "after")
    rows = find_sweep(str(tmp_path / "after"), {}).report().rows
    assert [row.run_dir for row in rows] == [tmp_path / "after" / str(number) for number in range(4)]


def test_runs_of_a_shared_study_are_where_each_machine_made_them(tmp_path: Path) -> None:
    """The second machine keeps its outputs elsewhere, and the study's settings name the newest folder."""
    study = make_study(tmp_path / "storage", trials=0, wanted=8)
    for machine in ("one", "two"):
        for _ in range(2):
            run_trial(study, tmp_path / machine, with_runs=True)
        study.set_user_attr("bit_axon", settings("ranks", tmp_path / machine, 8))
    shutil.move(tmp_path / "two", tmp_path / "another machine")
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    places = {row.number: row.run_dir for row in study_report(study, tmp_path / "one").rows}
    expected = ["one/0", "one/1", "two/2", "two/3"]
    assert [places[number] for number in range(4)] == [tmp_path / place for place in expected]
    shutil.rmtree(tmp_path / "one")
    moved = study_report(study, tmp_path / "moved").rows
    assert [row.run_dir for row in moved[:3]] == [
        tmp_path / place for place in ("moved/0", "moved/1", "two/2")
    ]


def test_a_trial_without_a_note_ran_where_its_sweep_puts_it(tmp_path: Path) -> None:
    study = make_study(tmp_path / "sweep", trials=0)
    study.tell(study.ask(SPACE), 0.5)
    make_run(tmp_path / "sweep" / "0", steps=1)
    assert study_report(study).rows[0].run_dir == tmp_path / "sweep" / "0"


def report_after(tmp_path: Path, reason: str, retries: int | None = None) -> Report:
    """A study of two trials, of which the last one failed for that reason."""
    study = make_study(tmp_path / "sweep", trials=1, wanted=2)
    if retries is not None:
        study.set_user_attr("bit_axon", {**study.user_attrs["bit_axon"], "retries": retries})
    trial = study.ask(SPACE)
    trial.set_user_attr("owner", lease.new_owner(lease.identity()))
    end_trial(study, trial, TrialState.FAIL, reason)
    return study_report(study)


def shown(report: Report) -> str:
    console = run_console(width=160)
    with console.capture() as captured:
        console.print(picture(report, console))
    return captured.get()


def test_a_sweep_whose_last_trial_is_to_be_run_again_is_not_done(tmp_path: Path) -> None:
    report = report_after(tmp_path, "interrupted")
    assert (report.rows[1].state, report.is_done) == ("retried", False)
    text = shown(report)
    assert "interrupted, to be run again" in text and "1 of 2 trials: 1 complete, 1 retried." in text


@pytest.mark.parametrize(("reason", "retries"), [("killed", 0), ("nan", None)])
def test_a_failure_that_is_final_counts(tmp_path: Path, reason: str, retries: int | None) -> None:
    report = report_after(tmp_path, reason, retries)
    assert (report.rows[1].state, report.is_done) == ("failed", True)
    assert "again" not in shown(report)


def dead_process() -> dict[str, Any]:
    """A process of this machine that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return {"host": platform.node(), "pid": process.pid, "started": time.time()}


def test_a_running_trial_without_a_process_is_lost(tmp_path: Path) -> None:
    study = make_study(tmp_path / "sweep", trials=1, wanted=2)
    study.ask(SPACE).set_user_attr("owner", lease.new_owner(dead_process()) | dead_process())
    row = study_report(study).rows[1]
    assert (row.state, row.reason, row.is_due, row.ended) == ("retried", "lost", True, None)
    assert study.trials[1].state is TrialState.RUNNING  # looking changes nothing


def test_a_trial_of_another_machine_lives_as_long_as_its_sweeper_beats(tmp_path: Path) -> None:
    study = make_study(tmp_path / "sweep", trials=1, wanted=2)
    trial, now = study.ask(SPACE), datetime.now()
    other = {"host": "another", "pid": 1, "started": 0.0}
    trial.set_user_attr("owner", {**other, "beat": now.timestamp() - 1200.0, "sweeper": other})
    assert study_report(study, now=now).rows[1].state == "retried"
    trial.set_user_attr("sweeper_beat", now.timestamp() - 60.0)
    assert study_report(study, now=now).rows[1].state == "running"


def test_a_trial_that_never_got_an_owner_is_lost_in_the_end(tmp_path: Path) -> None:
    study = make_study(tmp_path / "sweep", trials=0)
    study.ask(SPACE)
    assert study_report(study).rows[0].state == "running"
    assert study_report(study, now=datetime.now() + timedelta(hours=1)).rows[0].state == "retried"


def test_the_cool_down_is_no_time_of_the_trial_but_of_the_sweep(tmp_path: Path) -> None:
    study = make_study(tmp_path / "sweep", trials=0, wanted=2)
    trial = study.ask(SPACE)
    trial.set_user_attr("start", {"waited_seconds": 3600.0})
    study.tell(trial, 0.5)
    began = datetime.now() - timedelta(seconds=3660)
    with_times = optuna.trial.create_trial(
        value=0.5, user_attrs=dict(trial.user_attrs), params=trial.params, distributions=SPACE
    )
    with_times.datetime_start, with_times.datetime_complete = began, began + timedelta(seconds=3660)
    study.add_trial(with_times)
    row = study_report(study).rows[1]
    assert row.seconds == pytest.approx(60.0) and row.span_seconds == pytest.approx(3660.0)
    one = study_report(study)
    left = remaining_seconds(Report("x", "study", one.objectives, (row,), wanted=2))
    assert left == pytest.approx(3660.0)


def test_the_best_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing all trials again for each line took 19 s for 150 trials."""
    study = optuna.create_study(directions=["minimize", "minimize"])
    for number in range(60):
        study.tell(study.ask(SPACE), (float(number), float(60 - number)))
    report, calls, cost = study_report(study), list[int](), Report.cost

    def counted(self: Report, row: Row) -> tuple[float, ...]:
        calls.append(row.number)
        return cost(self, row)

    monkeypatch.setattr(Report, "cost", counted)
    assert len(report.best) == 60
    shown(report)
    assert len(calls) == 60


def test_a_storage_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    study = make_study(folder, trials=2)
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    (folder / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"the study storage .*not a database"):
        Sweep(folder, study, f"sqlite:///{folder}/study.db", 0.0).report()


def test_a_study_that_does_not_answer_is_not_taken_for_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bit_axon.sweep.reporting.mirror._SILENT_SECONDS", LONGEST_SECONDS)
    folder, said = tmp_path / "sweep", list[str]()
    study = make_study(folder, trials=2)
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    (folder / "study.db").write_bytes(b"no database" * 1000)
    mirror = SweepMirror(folder, lambda: Sweep(folder, study), Target(uri="http://mlflow:9"), say=said.append)
    mirror.start()
    assert not mirror.close("finished", LONGEST_SECONDS)
    assert said[0].startswith("tracking: the study's storage: ") and "mlflow" not in said[0]


def test_watching_lives_through_an_outage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The database is out of reach for a second."""
    folder, away = tmp_path / "sweep", tmp_path / "away"
    study = make_study(folder, trials=11)
    waited: list[threading.Timer] = []

    def sleep(_: float) -> None:
        run_trial(study, folder)
        study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
        if not waited:
            os.rename(folder, away)
            waited.append(threading.Timer(1.0, os.rename, (away, folder)))
            waited[0].start()

    _watch(Sweep(folder, study, patience_seconds=0.0), run_console(width=120), sleep)
    waited[0].join()
    assert capfd.readouterr().out.splitlines()[-1].startswith("12 of 12 trials")


def test_a_command_says_what_is_wrong_with_the_storage(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = outputs / "sweeps" / "ranks"
    folder.mkdir(parents=True)
    (folder / "study.db").write_bytes(b"no database" * 1000)
    monkeypatch.setattr(sys, "argv", ["bit-axon", "sweep", "show", "ranks"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "study storage" in said and "unexpected error" not in said


def test_the_status_of_a_sweep_is_that_of_its_runs(outputs: Path) -> None:
    folder = outputs / "sweeps" / "ranks"
    make_study(folder, trials=2, with_runs=True)
    state = {"uri": "sqlite:///x.db", "run_id": "a", "complete": True, "synced_offset": 10**9}
    (folder / "0" / "mlflow.json").write_text(json.dumps(state))
    lines = CliRunner().invoke(app, ["track", "status", str(folder)]).stdout.splitlines()
    assert lines == [
        f"{folder}/0  finished  complete  sqlite:///x.db",
        f"{folder}/1  finished  not mirrored  -",
    ]
