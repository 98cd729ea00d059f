"""Repeating a run, and noticing what has changed since."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import Runner

from bit_axon.reproduce import reproduce


def test_equal_bit_for_bit(run: Runner, small_run: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    done = run(*small_run, "method=orpo", "adapter.dropout=0.1", "tags.purpose=first")
    assert reproduce(done.run_dir, True, []) == 0
    said = capfd.readouterr().out
    assert "Config, data, model and versions are those of the run." in said and "Equal, bit for bit." in said


def test_overrides_change_the_repetition(run: Runner, small_run: list[str], outputs: Path) -> None:
    done = run(*small_run, "adapter.rank=4")
    assert reproduce(done.run_dir, False, ["seed=7", "tags.purpose=other"]) == 0
    (repeated,) = outputs.glob("runs/*repeat-of*")
    assert "rank: 4" in (repeated / "config.yaml").read_text()
    assert "seed: 7" in (repeated / "config.yaml").read_text()
    assert (
        json.loads((repeated / "result.json").read_text())["adapter_sha256"] != done.result["adapter_sha256"]
    )


def test_a_run_that_the_clock_had_cut(run: Runner, small_run: list[str]) -> None:
    folder = run(*small_run, "training.max_minutes=0.0000001").run_dir
    assert run(f"resume={folder}", "training.max_minutes=null").code == 0
    assert reproduce(folder, True, []) == 0


def test_changed_inputs_end_it_before_training(
    run: Runner, small_run: list[str], tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(tiny_model, model)
    data.mkdir()
    lines = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    (data / "a.jsonl").write_text("".join(lines[:20]))
    (data / "b.jsonl").write_text("".join(lines[20:]))
    done = run(*small_run, f"model.path={model}", f"data.train={data}")
    assert done.code == 0, done.err
    template = model / "tokenizer_config.json"
    original = template.read_text()
    template.write_text(original.replace("assistant", "helper"))
    assert reproduce(done.run_dir, True, []) == 1
    assert "the tokenizer or chat template" in capfd.readouterr().out
    template.write_text(original)
    (data / "b.jsonl").unlink()
    assert reproduce(done.run_dir, True, []) == 1
    said = capfd.readouterr().out
    assert "b.jsonl has changed" in said and "nothing was run" in said
