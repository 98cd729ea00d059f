"""What the mirror reads and remembers: metrics, facts, locations, status. No MLflow here."""

import json
import math
from pathlib import Path

import pytest
from tracking_cases import RESULT, START_MS, append_lines, make_run, train_line

from bit_axon.errors import ConfigError, RunDirectoryError
from bit_axon.tracking.facts import (
    datasets,
    end_tags,
    final_metrics,
    mlflow_status,
    params,
    read_facts,
    run_name,
    samples_table,
    start_tags,
)
from bit_axon.tracking.location import absolute_uri, artifact_root, plain_reason, redacted
from bit_axon.tracking.locks import mirroring
from bit_axon.tracking.points import Point, all_points, metric_name, points_of_line, read_piece, tail_digest
from bit_axon.tracking.state import load_state, save_state
from bit_axon.tracking.status import run_directories, tracking_status


def test_params_are_dotted_texts_with_the_same_keys_for_every_run(tmp_path: Path) -> None:
    found = params(read_facts(make_run(tmp_path / "run")).config)
    assert found == {
        "seed": "42",
        "name": "null",
        "model.path": "embedded:nano",
        "model.quantization": "null",
        "adapter.name": "dora",
        "adapter.rank": "8",
        "adapter.targets": '["q_proj", "v_proj"]',
        "adapter.rslora": "false",
        "method.name": "sft",
    }


def test_a_param_longer_than_mlflow_takes_is_cut() -> None:
    assert len(params({"model": {"chat_template": "x" * 10_000}})["model.chat_template"]) == 6000


@pytest.mark.parametrize("read_bytes", [1, 90, 1000, 1 << 18])
def test_pieces_of_any_size_give_every_point_once(tmp_path: Path, read_bytes: int) -> None:
    path = make_run(tmp_path / "run", steps=30) / "metrics.jsonl"
    points: list[Point] = []
    offset = 0
    while (piece := read_piece(path, offset, read_bytes)).offset > offset:
        points += piece.points
        offset = piece.offset
    assert points == list(all_points(path))
    assert [point.step for point in points if point.name == "train/loss"] == list(range(1, 31))


def test_a_line_without_its_newline_waits_and_a_torn_one_is_counted(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", steps=1) / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"time": 1, "st')
    piece = read_piece(path, 0)
    assert (piece.offset, piece.broken_lines, len(piece.points)) == (len(whole), 0, 2)
    with open(path, "ab") as file:
        file.write(b"\n" + whole)
    rest = read_piece(path, piece.offset)
    assert (rest.broken_lines, len(rest.points)) == (1, 2)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", None])
def test_values_json_has_no_number_for_become_nan(value: str | None) -> None:
    line = json.dumps({"time": 1, "step": 2, "kind": "train", "metrics": {"train/loss": value}})
    points = points_of_line(line.encode())
    assert points is not None
    assert math.isnan(points[0].value)


def test_names_mlflow_refuses_are_mended() -> None:
    assert metric_name("val/loss@(x)=1") == "val/loss__x__1"


def test_tail_digest_tells_a_rewritten_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"a" * 1000)
    before = tail_digest(path, 500)
    path.write_bytes(b"a" * 499 + b"b" * 501)
    assert tail_digest(path, 500) != before
    assert tail_digest(path, 2000) == "absent"


def test_final_metrics_are_every_number_of_the_result() -> None:
    found = final_metrics({**RESULT, "flag": True, "reward_margin": None})
    assert found["result/eval_loss"] == 0.75
    assert found["result/seconds/total"] == 61.5
    assert not {"result/flag", "result/reward_margin", "result/state"} & found.keys()


def test_tags_name_the_run_its_code_and_its_end(tmp_path: Path) -> None:
    facts = read_facts(make_run(tmp_path / "20260101-run", result=RESULT))
    start, end = start_tags(facts), end_tags(facts)
    assert start["team"] == "blue"
    assert start["mlflow.runName"] == "20260101-run"
    assert start["mlflow.source.git.commit"] == "f" * 40
    assert start["mlflow.source.name"] == "python -m bit_axon.run adapter=dora 'name=a b'"
    assert (end["bit_axon.state"], end["bit_axon.stop_reason"]) == ("finished", "max_steps")
    assert "| validation loss | 3.25 | 0.75 |" in end["mlflow.note.content"]
    assert f"bit-axon reproduce {facts.run_dir} --check" in end["mlflow.note.content"]


def test_a_job_of_a_sweep_is_named_with_its_sweep() -> None:
    assert run_name(Path("outputs/sweeps/ranks/7")) == "7 ranks"


def test_datasets_carry_digest_kind_and_rows(tmp_path: Path) -> None:
    train, valid = datasets(read_facts(make_run(tmp_path / "run")).repro)
    assert (train.context, train.name, train.source_kind) == ("train", "train_rows", "local")
    assert (train.digest, train.rows) == ("0" * 36, 1000)
    assert (valid.context, valid.name, valid.source_kind) == ("valid", "embedded:demo/valid", "embedded")


def test_samples_keep_odd_line_separators(tmp_path: Path) -> None:
    table = samples_table(make_run(tmp_path / "run", result=RESULT) / "samples.jsonl")
    assert table is not None
    assert [row[3] for row in table["data"]] == ["\u2028no", "4"]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("finished", "FINISHED"),
        ("pruned", "FINISHED"),
        ("stopped", "FINISHED"),
        ("failed", "FAILED"),
        ("interrupted", "KILLED"),
    ],
)
def test_states_become_mlflow_statuses(state: str, status: str) -> None:
    assert mlflow_status(state) == status


def test_torn_files_are_no_facts(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    (run_dir / "config.yaml").write_text("a: [1")
    (run_dir / "result.json").write_text('{"state": ')
    facts = read_facts(run_dir)
    assert (facts.config, facts.result) == ({}, {})


def test_uris_are_absolute_and_safe_to_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIT_AXON_OUTPUTS", str(tmp_path / "out"))
    assert absolute_uri(None) == f"sqlite:///{tmp_path}/out/mlflow.db"
    assert absolute_uri("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    assert artifact_root(absolute_uri(None)) == (tmp_path / "out" / "mlartifacts").as_uri()
    assert artifact_root("http://host:5000") is None
    assert redacted("https://ann:secret@host:5000/x") == "https://***@host:5000/x"


@pytest.mark.parametrize("uri", ["mlruns", "ftp://host", "file:///mlruns"])
def test_a_uri_that_is_no_store_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri.*Use sqlite"):
        absolute_uri(uri)


def test_reasons_are_plain_words() -> None:
    locked = RuntimeError("(sqlite3.OperationalError) database is locked\n[SQL: ...]")
    assert plain_reason(locked, "sqlite:///x.db") == "sqlite:///x.db is locked by another program"
    absent = RuntimeError("HTTPConnectionPool: Max retries exceeded with url")
    assert plain_reason(absent, "http://a:b@h:1") == "no MLflow server answers at http://***@h:1"


def test_state_is_kept_for_its_store_only(tmp_path: Path) -> None:
    state = load_state(tmp_path, "sqlite:///a.db", "e", None)
    state.run_id, state.synced_offset = "r", 17
    save_state(tmp_path, state)
    assert load_state(tmp_path, "sqlite:///a.db", "e", None) == state
    other = load_state(tmp_path, "sqlite:///b.db", "e", None)
    assert (other.run_uid, other.run_id, other.synced_offset) == (state.run_uid, None, 0)
    (tmp_path / "mlflow.json").write_text("{torn")
    assert load_state(tmp_path, "sqlite:///a.db", "e", "uid").run_uid == "uid"


def test_one_process_mirrors_a_run_at_a_time(tmp_path: Path) -> None:
    with mirroring(tmp_path), pytest.raises(RunDirectoryError, match="another process"), mirroring(tmp_path):
        pass
    with mirroring(tmp_path):
        pass


def test_status_tells_what_is_left_to_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIT_AXON_OUTPUTS", str(tmp_path))
    run_dir = make_run(tmp_path / "runs" / "a", steps=2, result=RESULT)
    make_run(tmp_path / "sweeps" / "s" / "0", steps=2)
    assert run_directories() == [run_dir, tmp_path / "sweeps" / "s" / "0"]
    size_bytes = (run_dir / "metrics.jsonl").stat().st_size
    fresh = tracking_status(run_dir)
    assert (fresh.state, fresh.uri, fresh.unsent_bytes, fresh.complete) == (
        "finished",
        "-",
        size_bytes,
        False,
    )
    state = load_state(run_dir, "http://a:b@h:1", "e", None)
    state.run_id, state.synced_offset, state.complete = "r", size_bytes, True
    save_state(run_dir, state)
    assert tracking_status(run_dir).complete
    assert tracking_status(run_dir).uri == "http://***@h:1"
    append_lines(run_dir, [train_line(3, 1.0, START_MS)])
    assert not tracking_status(run_dir).complete


def test_names_of_runs_begin_with_what_was_run() -> None:
    assert run_name(Path("runs/20261121-150308-630703-nano-lora-orpo")) == "nano-lora-orpo 20261121-150308"
    assert run_name(Path("runs/evening")) == "evening"
    assert run_name(Path("sweeps/20261121-140942-400707/3")) == "3 20261121-140942-400707"
