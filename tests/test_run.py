"""Whole runs through the command line's entry point."""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import mlx_lm
import numpy as np
import pytest
import yaml
from conftest import Outcome, Runner, run_of_module, small_overrides
from safetensors.numpy import load_file

from bit_axon.backend import mx
from bit_axon.models.loading import load_base
from bit_axon.schema import ModelConfig
from bit_axon.training.adapters import attach_saved_adapter


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Outcome]:
    """Runs with an adapter and a method, each made once."""

    @cache
    def made(adapter: str, method: str) -> Outcome:
        folder = tmp_path_factory.mktemp(f"{adapter}-{method}")
        base = digest(tiny_model / "model.safetensors")
        chosen = [f"adapter={adapter}", f"method={method}"]
        done = run_of_module(folder, *small_overrides(tiny_model, folder), *chosen)
        assert done.code == 0, done.err
        assert digest(tiny_model / "model.safetensors") == base
        return done

    return made


@pytest.mark.parametrize("method", ["sft", "orpo"])
@pytest.mark.parametrize("adapter", ["lora", "dora", "none"])
def test_every_adapter_with_every_method(
    adapter: str, method: str, trained: Callable[[str, str], Outcome]
) -> None:
    done = trained(adapter, method)
    result = done.result
    assert result["state"] == "finished" and result["stop_reason"] == "max_steps"
    assert result["step"] == 4
    assert result["eval_loss"] < result["eval_loss_before"]
    assert result["adapter_sha256"] == digest(done.run_dir / "adapters.safetensors")
    names = set(load_file(done.run_dir / "adapters.safetensors"))
    if adapter == "none":
        assert "model.embed_tokens.weight" in names
    else:
        leaves = {name.rsplit(".", 1)[1] for name in names}
        assert leaves == ({"lora_a", "lora_b"} if adapter == "lora" else {"lora_a", "lora_b", "m"})
    if method == "orpo":
        assert 0 <= result["reward_accuracy"] <= 1 and "reward_margin_before" in result


def test_the_run_directory_holds_what_the_design_says(run: Runner, small_run: list[str]) -> None:
    done = run(*small_run, "tags.purpose=test", "adapter.rank=4")
    folder = done.run_dir
    assert folder.name.endswith("-nano-dora-sft")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["adapter"]["rank"] == 4 and config["tags"] == {"purpose": "test"}
    repro = json.loads((folder / "repro.json").read_text())
    assert "adapter.rank=4" in repro["overrides"] and repro["choices"]["adapter"] == "dora"
    assert repro["data"]["train"][0]["sha256"] == digest(Path(repro["data"]["train"][0]["path"]))
    assert {"config.yaml", "hydra.yaml", "overrides.yaml"} <= {p.name for p in (folder / ".hydra").iterdir()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if x["kind"] == "train"] == [1, 2, 3, 4]
    assert [x["step"] for x in lines if x["kind"] == "eval"] == [0, 2, 4]
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step_00000002", "step_00000004"]
    assert not [p for p in folder.rglob("*.tmp")]


def test_two_runs_in_one_process_have_the_same_bytes(run: Runner, small_run: list[str]) -> None:
    small_run += ["adapter.dropout=0.1", "training.max_steps=2", "training.eval_every=0"]
    first = run(*small_run)
    other = run(*small_run, "method=orpo")
    second = run(*small_run)
    third = run(*small_run, "seed=7")
    assert first.result["adapter_sha256"] == second.result["adapter_sha256"]
    assert (
        len({first.result["adapter_sha256"], other.result["adapter_sha256"], third.result["adapter_sha256"]})
        == 3
    )


def test_the_schedule_ends_at_its_minimum(run: Runner, small_run: list[str]) -> None:
    done = run(*small_run, "training.learning_rate=0.01", "training.min_learning_rate=0.001")
    lines = [json.loads(line) for line in (done.run_dir / "metrics.jsonl").read_text().splitlines()]
    rates = [x["metrics"]["train/learning_rate"] for x in lines if x["kind"] == "train"]
    assert rates[0] == 0.01 and rates[-1] == pytest.approx(0.001)


def test_epochs_instead_of_steps(run: Runner, small_run: list[str]) -> None:
    done = run(
        *small_run,
        "data.packing=false",
        "training.max_steps=null",
        "training.epochs=1",
        "training.grad_accum_steps=3",
    )
    assert done.result["step"] == 7  # twenty batches of two rows, three to a step, the last step shorter
    assert done.result["epoch"] == 1.0 and done.result["examples"] == 40


def test_early_stop_and_time_limit(run: Runner, small_run: list[str]) -> None:
    stopped = run(
        *small_run,
        "training.max_steps=40",
        "training.early_stop_patience=2",
        "training.early_stop_min_delta=100",
    )
    assert stopped.result["stop_reason"] == "early_stop" and stopped.result["step"] == 4
    timed = run(*small_run, "training.max_steps=4000", "training.max_minutes=0.00001")
    assert timed.code == 0 and timed.result["stop_reason"] == "time_limit" and timed.result["step"] < 4000


def test_quantized_base(run: Runner, small_run: list[str]) -> None:
    done = run(*small_run, "model.quantization={mode: affine, bits: 4, group_size: 32}")
    assert done.code == 0, done.err
    assert done.result["eval_loss"] < done.result["eval_loss_before"]


def test_a_grid_runs_every_combination(small_run: list[str], outputs: Path) -> None:
    from bit_axon.run import main

    assert main(["-m", *small_run, "adapter=lora,dora", "training.max_steps=1"]) == 0
    results = sorted(outputs.glob("sweeps/*/*/result.json"))
    assert [p.parent.name for p in results] == ["0", "1"]


@pytest.mark.parametrize("adapter", ["lora", "dora", "none"])
def test_mlx_lm_loads_a_run(adapter: str, trained: Callable[[str, str], Outcome], tiny_model: Path) -> None:
    done = trained(adapter, "sft")
    tokens = mx.array([[5, 9, 300, 17, 42]])
    theirs, _ = mlx_lm.load(str(tiny_model), adapter_path=str(done.run_dir))
    ours = load_base(ModelConfig(path=str(tiny_model)), seed=0).model
    untrained = np.array(ours(tokens))
    attach_saved_adapter(ours, done.run_dir)
    np.testing.assert_allclose(np.array(theirs(tokens)), np.array(ours(tokens)), atol=1e-5)
    assert np.abs(untrained - np.array(ours(tokens))).max() > 1e-2
