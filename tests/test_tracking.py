"""The mirror against a real MLflow store in a SQLite file."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow.data
import pytest
from mlflow.tracking import MlflowClient
from tracking_cases import RESULT, START_MS, append_lines, end_run, make_run, train_line

from bit_axon.errors import BitAxonError, RunDirectoryError
from bit_axon.tracking.figures import loss_figure, running_mean, write_loss_figure
from bit_axon.tracking.mirror import Mirror
from bit_axon.tracking.store import open_store
from bit_axon.tracking.sync import sync_run

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store made once: its schema takes seconds."""
    address = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    open_store(address, "bit_axon")
    return address


def mirrored(run_dir: Path, uri: str) -> Any:
    """The run directory's run, as MLflow has it."""
    run_id = json.loads((run_dir / "mlflow.json").read_text())["run_id"]
    return MlflowClient(tracking_uri=uri).get_run(run_id)


def history(run_dir: Path, uri: str, name: str = "train/loss") -> list[tuple[int, int, float]]:
    """(step, time, value) of a metric, by step."""
    run_id = json.loads((run_dir / "mlflow.json").read_text())["run_id"]
    points = MlflowClient(tracking_uri=uri).get_metric_history(run_id, name)
    return sorted((point.step, point.timestamp, point.value) for point in points)


def expected(steps: int) -> list[tuple[int, int, float]]:
    return [(step, START_MS + 250 * step, 4.0 / step) for step in range(1, steps + 1)]


def test_a_whole_run_is_mirrored(tmp_path: Path, uri: str) -> None:
    run_dir = make_run(tmp_path / "run", result=RESULT)
    report = sync_run(run_dir, uri)
    run = mirrored(run_dir, uri)
    assert report.sent_points == 40
    assert history(run_dir, uri) == expected(20)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert (run.info.start_time, run.info.end_time) == (START_MS + 250, START_MS + 5000)
    assert run.data.params["model.quantization"] == "null"
    assert run.data.tags["bit_axon.state"] == "finished"
    assert run.data.metrics["result/eval_loss"] == 0.75
    again = sync_run(run_dir)
    assert (again.run_id, again.sent_points) == (run.info.run_id, 0)
    assert history(run_dir, uri) == expected(20)


def test_artifacts_samples_and_figure_are_there(tmp_path: Path, uri: str) -> None:
    run_dir = make_run(tmp_path / "run", result=RESULT)
    run_id = sync_run(run_dir, uri).run_id
    client = MlflowClient(tracking_uri=uri)
    names = {
        item.path for folder in ("", "adapter", "figures") for item in client.list_artifacts(run_id, folder)
    }
    assert names >= {
        "config.yaml",
        "metrics.jsonl",
        "repro.json",
        "result.json",
        "samples.json",
        "adapter/adapters.safetensors",
        "adapter/adapter_config.json",
        "figures/loss.png",
    }
    table = json.loads(Path(client.download_artifacts(run_id, "samples.json", str(tmp_path))).read_text())
    assert table["columns"][3:] == ["answer", "correct"]
    assert table["data"][1] == ["after", "2+2?", "4", "4", True]
    figure = Path(client.download_artifacts(run_id, "figures/loss.png", str(tmp_path)))
    assert figure.read_bytes().startswith(PNG_SIGNATURE)
    assert json.loads(client.get_run(run_id).data.tags["mlflow.loggedArtifacts"])[0]["type"] == "table"


def test_data_sets_are_inputs_with_digests(tmp_path: Path, uri: str) -> None:
    run_dir = make_run(tmp_path / "run", result=RESULT)
    sync_run(run_dir, uri)
    inputs = {item.tags[0].value: item.dataset for item in mirrored(run_dir, uri).inputs.dataset_inputs}
    assert inputs["train"].digest == "0" * 36
    assert json.loads(inputs["valid"].profile) == {"rows": 200}
    source = mlflow.data.get_source(inputs["train"])
    assert Path(source.load()).read_text() == '{"text": "a"}\n'


def test_sending_again_after_a_lost_state_doubles_nothing(tmp_path: Path, uri: str) -> None:
    run_dir = make_run(tmp_path / "run", steps=3)
    first = sync_run(run_dir, uri)
    early_state = (run_dir / "mlflow.json").read_bytes()
    append_lines(run_dir, [train_line(4, 1.0), train_line(5, 0.8)])
    sync_run(run_dir, uri)
    (run_dir / "mlflow.json").write_bytes(early_state)  # sent, but cut before the state was written
    assert sync_run(run_dir, uri).sent_points == 4
    assert history(run_dir, uri) == expected(5)
    assert sync_run(run_dir, uri).run_id == first.run_id


def test_a_lost_state_finds_its_run_by_uid(tmp_path: Path, uri: str) -> None:
    run_dir = make_run(tmp_path / "run", steps=5, result=RESULT)
    repro = json.loads((run_dir / "repro.json").read_text())
    (run_dir / "repro.json").write_text(json.dumps({**repro, "run_uid": "uid-of-this-run"}))
    first = sync_run(run_dir, uri)
    (run_dir / "mlflow.json").unlink()
    assert sync_run(run_dir, uri).run_id == first.run_id
    assert history(run_dir, uri) == expected(5)


def test_a_resumed_run_goes_on_in_the_same_run_without_doubled_steps(tmp_path: Path, uri: str) -> None:
    run_dir = make_run(tmp_path / "run", steps=7, result={**RESULT, "state": "interrupted", "step": 7})
    first = sync_run(run_dir, uri)
    assert mirrored(run_dir, uri).info.status == "KILLED"
    later_ms = START_MS + 10**6  # cut at step 7 after a checkpoint at 5: 6 and 7 come again
    append_lines(run_dir, [train_line(step, 4.0 / step, later_ms + step) for step in range(6, 11)])
    store = open_store(uri, "bit_axon")
    mirror = Mirror(run_dir, store)
    mirror.attach()
    mirror.mark_running()
    assert mirrored(run_dir, uri).info.status == "RUNNING"
    assert not mirror.advance()
    end_run(run_dir, RESULT)
    mirror.finish()
    run = mirrored(run_dir, uri)
    assert (mirror.run_id, run.info.status) == (first.run_id, "FINISHED")
    assert history(run_dir, uri) == [*expected(7), *((n, later_ms + n, 4.0 / n) for n in range(8, 11))]


def test_a_metrics_file_cut_back_is_read_again(tmp_path: Path, uri: str) -> None:
    run_dir = make_run(tmp_path / "run", steps=6)
    sync_run(run_dir, uri)
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_text("".join(lines[:4]))
    redone = [train_line(step, 4.0 / step, START_MS + 10**6 + step) for step in range(5, 9)]
    for line in redone:
        line["metrics"]["sft/new"] = 1.0
    append_lines(run_dir, redone)
    assert sync_run(run_dir, uri).broken_lines == 0
    assert [point[0] for point in history(run_dir, uri)] == list(range(1, 9))
    assert history(run_dir, uri)[:6] == expected(6)
    assert [point[0] for point in history(run_dir, uri, "sft/new")] == [5, 6, 7, 8]


@pytest.mark.parametrize(("state", "status"), [("failed", "FAILED"), ("interrupted", "KILLED")])
def test_a_run_that_did_not_finish_is_shown_so(tmp_path: Path, uri: str, state: str, status: str) -> None:
    run_dir = make_run(tmp_path / "run", steps=2, result={"state": state, "stop_reason": "x", "step": 2})
    sync_run(run_dir, uri)
    run = mirrored(run_dir, uri)
    assert (run.info.status, run.data.tags["bit_axon.stop_reason"]) == (status, "x")


def test_a_killed_run_without_a_result_is_killed(tmp_path: Path, uri: str) -> None:
    run_dir = make_run(tmp_path / "run", steps=2)
    sync_run(run_dir, uri)
    assert mirrored(run_dir, uri).info.status == "KILLED"
    assert json.loads((run_dir / "mlflow.json").read_text())["complete"] is False


def test_nan_stays_nan_and_infinity_does_not_flatten_the_chart(tmp_path: Path, uri: str) -> None:
    run_dir = make_run(tmp_path / "run", steps=1)
    append_lines(run_dir, [train_line(2, "nan"), train_line(3, "inf"), train_line(4, 1.5)])
    sync_run(run_dir, uri)
    values = [value for _, _, value in history(run_dir, uri)]
    assert values[0] == 4.0
    assert all(math.isnan(value) for value in values[1:3])
    assert values[3] == 1.5


def test_a_run_deleted_in_mlflow_is_made_again(tmp_path: Path, uri: str) -> None:
    run_dir = make_run(tmp_path / "run", steps=2)
    first = sync_run(run_dir, uri)
    MlflowClient(tracking_uri=uri).delete_run(first.run_id)
    second = sync_run(run_dir, uri)
    assert second.run_id != first.run_id
    assert history(run_dir, uri) == expected(2)


def test_a_run_moves_to_another_store_in_full(tmp_path: Path, uri: str) -> None:
    run_dir = make_run(tmp_path / "run", steps=4, result=RESULT)
    sync_run(run_dir, uri)
    other = f"sqlite:///{tmp_path}/other.db"
    shutil.copy(uri.removeprefix("sqlite:///"), tmp_path / "other.db")
    sync_run(run_dir, other)
    assert json.loads((run_dir / "mlflow.json").read_text())["uri"] == other
    assert history(run_dir, other) == expected(4)


def test_more_points_than_one_request_takes(tmp_path: Path, uri: str) -> None:
    run_dir = make_run(tmp_path / "run", steps=1200)
    assert sync_run(run_dir, uri).sent_points == 2400
    assert len(history(run_dir, uri)) == 1200


def test_a_deleted_experiment_is_a_clear_error(tmp_path: Path, uri: str) -> None:
    store = open_store(uri, "gone")
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(BitAxonError, match="'gone'; got one that was deleted"):
        open_store(uri, "gone")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"config\.yaml and metrics\.jsonl"):
        sync_run(tmp_path)


def test_the_figure_has_a_panel_for_what_was_recorded(tmp_path: Path) -> None:
    series = {
        "train/loss": {step: 1.0 / step for step in range(1, 100)},
        "val/loss": {0: 2.0, 50: math.nan, 99: 0.5},
        "train/learning_rate": {1: 1e-4, 99: 0.0},
        "thermal/temp_c": {},
    }
    figure = loss_figure(series, "a run")
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "learning\nrate"]
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [99, 99, 2]
    assert figure.axes[-1].get_xlabel() == "step (optimizer updates)"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert write_loss_figure(empty) is None


def test_running_mean_is_centred() -> None:
    assert running_mean([1.0, 2.0, 6.0, 4.0], 3) == [1.5, 3.0, 4.0, 5.0]
    assert running_mean([1.0, 2.0], 1) == [1.0, 2.0]


@pytest.mark.slow
def test_two_processes_make_one_store_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from bit_axon.tracking.store import open_store; "
        "print(open_store(sys.argv[1], 'e').experiment_id)"
    )
    command = [sys.executable, "-W", "error", "-c", code, f"sqlite:///{tmp_path}/new/mlflow.db"]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    results = [process.communicate(timeout=300) for process in processes]
    assert [error for _, error in results] == ["", ""]
    assert results[0][0] == results[1][0]
