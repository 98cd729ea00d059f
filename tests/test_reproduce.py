"""Repeating a run, and noticing what has changed since."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import Runner

from bit_axon.errors import RunDirectoryError
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


def test_config_files_of_the_users_own_are_found_again(
    run: Runner, small_run: list[str], tmp_path: Path, outputs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    option = tmp_path / "my own" / "adapter" / "wide.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("defaults: [lora]\nrank: 3\n")
    done = run("--config-dir", str(tmp_path / "my own"), *small_run, "adapter=wide")
    assert done.code == 0, done.err
    assert reproduce(done.run_dir, True, []) == 0
    assert "Config, data, model and versions are those of the run." in capfd.readouterr().out
    (repeated,) = outputs.glob("runs/*repeat-of*")
    assert reproduce(repeated, False, ["adapter.dropout=0.5"]) == 0
    (third,) = outputs.glob("runs/*repeat-of*repeat-of*")
    config = yaml.safe_load((third / "config.yaml").read_text())
    assert (config["adapter"]["rank"], config["adapter"]["dropout"]) == (3, 0.5)
    assert "Config, data, model and versions are those of the run." in capfd.readouterr().out
    option.write_text("defaults: [lora]\nrank: 5\n")
    assert reproduce(done.run_dir, False, []) == 0
    assert "  config: adapter.rank was 3, the config files say 5\n" in capfd.readouterr().out


def test_a_folder_of_config_files_that_is_gone_is_told(
    run: Runner, small_run: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    folder = run(f"--config-dir={own}", *small_run).run_dir
    own.rmdir()
    assert reproduce(folder, True, []) == 0
    said = capfd.readouterr().out
    assert f"config: its config files were in {own}, which is gone; the saved values are used" in said
    with pytest.raises(RunDirectoryError, match=f"got {own}, which is gone. Put it back, name another"):
        reproduce(folder, False, ["seed=7"])
    (tmp_path / "moved").mkdir()
    assert reproduce(folder, False, ["seed=7", "--config-dir", str(tmp_path / "moved")]) == 0
    assert "Config, data, model and versions are those of the run." in capfd.readouterr().out


def test_data_that_has_changed_is_told_beside_overrides_too(
    run: Runner, small_run: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = run(*small_run).run_dir
    valid = tmp_path / "valid.jsonl"
    valid.write_text(valid.read_text().replace("Add", "Bdd", 1))
    assert reproduce(folder, False, ["seed=7"]) == 0
    assert f"data.valid: {valid} has changed" in capfd.readouterr().out


def test_an_edited_config_is_not_what_was_trained(run: Runner, small_run: list[str]) -> None:
    folder = run(*small_run, "adapter.rank=4").run_dir
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("rank: 4", "rank: 5"))
    for overrides in ([], ["seed=7"]):
        with pytest.raises(
            RunDirectoryError, match=r"config\.yaml: wanted the config the run was started with"
        ):
            reproduce(folder, False, overrides)
    file.write_text(file.read_text().replace("rank: 5", "rank: 4"))
    assert reproduce(folder, True, []) == 0


def test_how_long_it_may_train_is_for_the_overrides_alone(
    run: Runner, small_run: list[str], outputs: Path
) -> None:
    folder = run(*small_run, "training.max_minutes=5").run_dir
    assert reproduce(folder, False, ["training.max_minutes=6"]) == 0
    assert reproduce(folder, False, ["seed=7"]) == 0
    configs = [
        yaml.safe_load(file.read_text()) for file in sorted(outputs.glob("runs/*repeat-of*/config.yaml"))
    ]
    assert [config["training"]["max_minutes"] for config in configs] == [6, None]


def test_a_password_among_the_words_of_the_command_is_not_kept(
    run: Runner, small_run: list[str], outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(*small_run).run_dir
    monkeypatch.setattr("sys.argv", ["bit-axon", "reproduce", "tags.x='https://me:s3cret@host/x'"])
    assert reproduce(folder, False, []) == 0
    (repeated,) = outputs.glob("runs/*repeat-of*")
    assert json.loads((repeated / "repro.json").read_text())["argv"][-1] == "tags.x='https://***@host/x'"
