"""The writer thread: quick for the training thread, patient with the store, honest at the end."""

import json
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from tracking_cases import RESULT, append_lines, end_run, make_run, train_line
from waiting import LONGEST_SECONDS, wait_for

from bit_axon.tracking import writer as writer_module
from bit_axon.tracking.store import open_store
from bit_axon.tracking.sync import sync_run
from bit_axon.tracking.writer import TrackingWriter


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's schema: it takes seconds to make, and a moment to copy."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(f"sqlite:///{path}", "template")
    return path


@pytest.fixture
def database(tmp_path: Path, empty_database: Path) -> Path:
    (tmp_path / "store").mkdir()
    return Path(shutil.copy(empty_database, tmp_path / "store" / "mlflow.db"))


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses: bound, so that nobody else gets it, and not listening."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said and sent does not depend on how long MLflow takes on a busy machine."""
    monkeypatch.setattr(writer_module, "_SILENT_SECONDS", LONGEST_SECONDS)
    monkeypatch.setattr(writer_module, "_MAX_DUTY", 1.0)  # a slow pass is not followed by a long rest


def sent_steps(run_dir: Path, uri: str) -> list[int]:
    state = run_dir / "mlflow.json"
    run_id = json.loads(state.read_text())["run_id"] if state.is_file() else None
    if run_id is None:
        return []
    points = MlflowClient(tracking_uri=uri).get_metric_history(run_id, "train/loss")
    return sorted(point.step for point in points)


def test_points_appear_while_the_run_goes_and_the_end_at_close(tmp_path: Path, database: Path) -> None:
    uri, said = f"sqlite:///{database}", list[str]()
    run_dir = make_run(tmp_path / "run", steps=0)
    writer = TrackingWriter(run_dir, uri, "e", say=said.append, flush_seconds=0.01, start_delay_seconds=0.0)
    writer.start()
    append_lines(run_dir, [train_line(1, 2.0)])
    writer.notify()
    wait_for(lambda: sent_steps(run_dir, uri) == [1], "the first point")
    append_lines(run_dir, [train_line(2, 1.0), train_line(3, 0.5)])
    writer.notify()
    wait_for(lambda: sent_steps(run_dir, uri) == [1, 2, 3], "the next points")
    append_lines(run_dir, [train_line(4, 0.4)])
    end_run(run_dir, RESULT)
    assert writer.close(LONGEST_SECONDS)
    run = MlflowClient(tracking_uri=uri).get_run(json.loads((run_dir / "mlflow.json").read_text())["run_id"])
    assert (run.info.status, run.data.metrics["train/loss"]) == ("FINISHED", 0.4)
    assert said == []


def test_nothing_is_done_before_the_first_record(tmp_path: Path, database: Path) -> None:
    run_dir = make_run(tmp_path / "run", steps=0)
    writer = TrackingWriter(run_dir, f"sqlite:///{database}", "e")
    writer.start()
    time.sleep(0.1)
    assert not (run_dir / "mlflow.json").exists()
    assert writer.close(LONGEST_SECONDS)
    assert (run_dir / "mlflow.json").exists()


def test_a_writer_that_never_started_closes_at_once(tmp_path: Path) -> None:
    assert TrackingWriter(tmp_path, None, "e").close()


def test_an_absent_server_costs_the_run_nothing(tmp_path: Path, database: Path, closed_port: int) -> None:
    said: list[str] = []
    run_dir = make_run(tmp_path / "run", steps=0)
    writer = TrackingWriter(
        run_dir,
        f"http://127.0.0.1:{closed_port}",
        "e",
        say=said.append,
        flush_seconds=0.01,
        start_delay_seconds=0.0,
    )
    writer.start()
    notify_seconds: list[float] = []
    for step in range(1, 101):
        append_lines(run_dir, [train_line(step, 1.0 / step)])
        started = time.perf_counter()
        writer.notify()
        notify_seconds.append(time.perf_counter() - started)
        time.sleep(0.002)
    assert sorted(notify_seconds)[50] < 0.001  # a busy machine may take the processor away now and then
    wait_for(lambda: len(said) == 1, "a word of the server")
    end_run(run_dir, RESULT)
    assert not writer.close(deadline_seconds=5.0)
    assert "no MLflow server answers at http://127.0.0.1" in said[0]
    assert f"bit-axon track sync {run_dir}" in said[-1]
    assert len([line for line in said if "no MLflow server" in line]) == 1
    report = sync_run(run_dir, f"sqlite:///{database}", wait_seconds=LONGEST_SECONDS)
    assert report.sent_points == 200
    assert sent_steps(run_dir, f"sqlite:///{database}") == list(range(1, 101))


def test_a_locked_database_is_waited_for(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_SILENT_SECONDS", 0.1)
    uri, said = f"sqlite:///{database}", list[str]()
    run_dir = make_run(tmp_path / "run", steps=5)
    writer = TrackingWriter(run_dir, uri, "e", say=said.append, flush_seconds=0.01, start_delay_seconds=0.0)
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    writer.start()
    writer.notify()
    time.sleep(0.5)
    end_run(run_dir, RESULT)
    started = time.perf_counter()
    assert not writer.close(deadline_seconds=0.5)
    assert time.perf_counter() - started < 10.0  # SQLite itself waits for fifteen seconds and more
    assert "tracking: sending the rest to MLflow ..." in said
    assert f"bit-axon track sync {run_dir}" in said[-1]
    other.execute("ROLLBACK")
    other.close()
    sync_run(run_dir, uri, wait_seconds=LONGEST_SECONDS)
    assert sent_steps(run_dir, uri) == [1, 2, 3, 4, 5]


def test_a_store_that_comes_back_gets_everything(tmp_path: Path, database: Path) -> None:
    folder, said = tmp_path / "later", list[str]()
    folder.write_text("a file where the store's folder should be")
    run_dir = make_run(tmp_path / "run", steps=3)
    uri = f"sqlite:///{folder}/mlflow.db"
    writer = TrackingWriter(run_dir, uri, "e", say=said.append, flush_seconds=0.01, start_delay_seconds=0.0)
    writer.start()
    writer.notify()
    wait_for(lambda: len(said) == 1, "a word of what is in the way")
    folder.unlink()
    database.parent.rename(folder)  # all at once, or the writer would make a database of its own there
    wait_for(lambda: len(said) == 2, "a word that it is back")
    end_run(run_dir, RESULT)
    assert writer.close(LONGEST_SECONDS)
    assert "is back" in said[1]
    assert sent_steps(run_dir, uri) == [1, 2, 3]


def test_a_foreign_run_id_is_dropped_with_a_word(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    said: list[str] = []
    run_dir = make_run(tmp_path / "run", steps=1, result=RESULT)
    writer = TrackingWriter(run_dir, f"sqlite:///{database}", "e", say=said.append)
    writer.start()
    assert writer.close(LONGEST_SECONDS)
    assert "MLFLOW_RUN_ID" in said[0]
    assert json.loads((run_dir / "mlflow.json").read_text())["run_id"] != "f" * 32
