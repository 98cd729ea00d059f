"""The training guide's code samples, run as they stand there with a small model and fewer steps."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from bit_axon.backend import mx
from bit_axon.errors import ConfigError, DataError, ThermalShutdownError
from bit_axon.models.loading import load_base
from bit_axon.profiling.thermal import ThermalMonitor
from bit_axon.schema import ModelConfig, TrainingOptions
from bit_axon.tokenizer import QwenTokenizerWrapper
from bit_axon.training import (
    ORPODataset,
    ORPOTrainer,
    SFTDataset,
    Trainer,
    TrainingConfig,
    apply_lora_to_model,
)
from bit_axon.training.config import from_run_values, to_run_values
from bit_axon.training.cooling import CoolingScheduler, ThermalPolicy
from bit_axon.training.optimizers import build_optimizer

GUIDE = ROOT.parent / "shared" / "spec" / "training_guide.txt"
pytestmark = pytest.mark.skipif(not GUIDE.is_file(), reason="the guide's text is not here")

SHRUNK = {
    "max_steps=2000": "max_steps=4",
    "max_steps=5000": "max_steps=4",
    "save_every=500": "save_every=2",
    "eval_every=500": "eval_every=2",
}
TEMP = 61.5  # °C


def sample(first: str, last: str, number: int = 0) -> str:
    """The lines of the guide from the one that starts with `first` to the one that starts with `last`.

    The text has lost its indentation: what follows a `for` line is inside it, up to a line that assigns
    to `final`.
    """
    lines = GUIDE.read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(first)]
    begin = starts[number]
    end = next(i for i in range(begin, len(lines)) if lines[i].startswith(last))
    code, depth = [], 0
    for line in lines[begin : end + 1]:
        depth = 0 if line.startswith("final") else depth
        code.append("    " * depth + line)
        depth += line.endswith(":") and not line.startswith("#")
    text = "\n".join(code)
    for old, new in SHRUNK.items():
        text = text.replace(old, new)
    return text


class Reads:
    """A read function for a monitor; counts its calls."""

    def __init__(self, *temps: float):
        self._temps, self.count = temps, 0

    def __call__(self) -> float:
        self.count += 1
        return self._temps[min(self.count, len(self._temps)) - 1]


class HotUntilAsked(ThermalMonitor):
    """Its machine cools down as soon as somebody has seen how hot it is."""

    def __init__(self) -> None:
        super().__init__(0.05, read_fn=lambda: TEMP if self._asked else 90.0)
        self._asked = False

    @property
    def temperature(self) -> float | None:
        self._asked = True
        return super().temperature


@pytest.fixture
def reads() -> Reads:
    return Reads(TEMP)


@pytest.fixture
def thermal_monitor(reads: Reads) -> Iterator[ThermalMonitor]:
    with ThermalMonitor(poll_interval=0.05, read_fn=reads) as monitor:
        yield monitor


@pytest.fixture
def names(
    tiny_model: Path, tmp_path: Path, thermal_monitor: ThermalMonitor, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What the samples take for granted, and the files they read, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    lines = (
        '{{"messages": [{{"role": "user", "content": "Add {0} and 1."}}, '
        '{{"role": "assistant", "content": "{1}"}}]}}\n'
    )
    Path("train.jsonl").write_text("".join(lines.format(n, n + 1) for n in range(12)))
    pair = '{{"prompt": "Add {0} and 1.", "chosen": "{1}", "rejected": "{2}"}}\n'
    Path("prefs.jsonl").write_text("".join(pair.format(n, n + 1, n + 2) for n in range(12)))
    tokenizer = QwenTokenizerWrapper(tiny_model)
    model = load_base(ModelConfig(path=str(tiny_model)), seed=0).model
    return {
        "model": model,
        "tokenizer": tokenizer,
        "thermal_monitor": thermal_monitor,
        "cooling": CoolingScheduler(thermal_monitor),
        "mx": mx,
    }


def test_applying_adapters(names: dict[str, Any]) -> None:
    last = "wrapped = apply_lora_to_model(model, rank=8, dropout=0.0, scale=20.0, use_dora=False)"
    exec(sample("from bit_axon.training.lora import apply_lora_to_model", last), names)
    assert len(names["wrapped"]) == 14 and "model.layers.1.mlp.down_proj" in names["wrapped"]


def test_packing(names: dict[str, Any]) -> None:
    seen: list[Any] = []
    names |= {"dataset": SFTDataset("train.jsonl", names["tokenizer"]), "process": seen.append}
    exec(sample("from bit_axon.training.packing", "final = packer.flush()"), names)
    assert names["final"].token_ids.shape == (2048,) and names["final"].loss_mask.sum() > 0


def test_running_orpo(names: dict[str, Any]) -> None:
    apply_lora_to_model(names["model"], use_dora=True)
    exec(sample("from bit_axon.training.config import TrainingConfig", "result = trainer.train()"), names)
    wanted = "step loss grad_norm chosen_reward rejected_reward reward_margin reward_accuracy"
    assert set(wanted.split()) <= set(names["result"])
    assert names["result"]["step"] == 4


def test_orpo_example(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    apply_lora_to_model(names["model"], use_dora=True)
    exec(sample("from bit_axon.training.config import TrainingConfig", 'print(f"Reward accuracy', 2), names)
    assert re.search(r"Reward margin: -?\d\.\d{4}\nReward accuracy: [01]\.\d\d", capsys.readouterr().out)
    assert Path("checkpoints/step_00000004/training_state.json").is_file()


def test_training_config(names: dict[str, Any]) -> None:
    exec(sample("from bit_axon.training.config import TrainingConfig", "seed=42", 1) + "\n)", names)
    assert names["config"] == TrainingConfig(save_every=2, eval_every=2)


def test_manual_adapters(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    names["existing_linear"] = mx_linear()
    exec(sample("from bit_axon.training.lora import apply_lora_to_model, LoRALinear", "fused_linear"), names)
    assert "Wrapped 14 layers" in capsys.readouterr().out
    assert names["fused_linear"].weight.shape == (24, 16)


def mx_linear() -> Any:
    import mlx.nn as nn

    return nn.Linear(16, 24)


def test_checkpoints(names: dict[str, Any]) -> None:
    model = names["model"]
    apply_lora_to_model(model)
    names["optimizer"] = build_optimizer(TrainingOptions(), model)
    exec(sample("from bit_axon.training.checkpoint import (", "save_adapter_only(model"), names)
    assert (names["step"], names["loss"]) == (1500, 1.23)
    assert names["latest"] == Path("checkpoints/step_00001500") and Path("my_adapter.safetensors").is_file()


def test_caching(names: dict[str, Any]) -> None:
    seen: list[Any] = []
    names["train_step"] = lambda ids, mask: seen.append((ids, mask))
    exec(sample("from bit_axon.training.data import SFTDataset, CacheDataset", "train_step", 1), names)
    assert len(seen) == 12


def test_thermal_limits(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    names |= {"monitor": names["thermal_monitor"], "step": 1}
    exec(sample("from bit_axon.training.cooling import", 'print(f"Paused'), names)
    assert capsys.readouterr().out == "Paused 0.0s for cooling\n"
    assert names["policy"] == ThermalPolicy(75.0, 85.0, 95.0, 0.5) == ThermalPolicy()
    assert names["ThermalShutdownError"] is ThermalShutdownError
    assert names["cooling"].should_reduce_batch() is False


def test_thermal_limits_of_a_hot_machine(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    text = sample("from bit_axon.training.cooling import", 'print(f"Paused')
    with HotUntilAsked() as monitor:
        exec(text, names | {"monitor": monitor, "step": 1})
    said = re.fullmatch(r"Paused (\d+\.\d)s for cooling\n", capsys.readouterr().out)
    assert said is not None and float(said[1]) >= 0.5
    limit = pytest.raises(ThermalShutdownError, match=r"95\.0 °C, and 95 °C is the limit")
    with ThermalMonitor(0.05, read_fn=Reads(95.0)) as monitor, limit:
        exec(text, names | {"monitor": monitor, "step": 1})
    assert capsys.readouterr().out == ""


def full_example(tokenizer: str, last: str) -> str:
    """Every line but the three that make its model; the names of files and tokenizer are those here."""
    imports = sample("from bit_axon.tokenizer import QwenTokenizerWrapper", "from bit_axon.training.cooling")
    text = imports + "\n" + sample("# 2. Apply DoRA adapters", last)
    given = {"Qwen/Qwen2.5-3B": tokenizer, "data.json": "train.jsonl", "val.json": "train.jsonl"}
    for old, new in given.items():
        text = text.replace(old, new)
    return text


def test_the_full_example(names: dict[str, Any], reads: Reads, capsys: pytest.CaptureFixture[str]) -> None:
    exec(full_example(names["tokenizer"].name, 'print(f"Step {result'), names)
    assert "Step 4: loss=" in capsys.readouterr().out
    cooling = names["cooling"]
    assert cooling.total_pause_time == 0.0 and reads.count > 0
    assert cooling.gate.after_step(5, 1, 5, "", compiled=True)["temp_c"] == TEMP


def test_the_full_example_on_a_machine_that_is_too_hot(names: dict[str, Any]) -> None:
    """Its trainer is held by its scheduler."""
    text = full_example(names["tokenizer"].name, "result = trainer.train()")
    with ThermalMonitor(read_fn=Reads(95.0)) as hot, pytest.raises(ThermalShutdownError):
        exec(text, names | {"thermal_monitor": hot})


def test_a_second_trainer_resumes(names: dict[str, Any]) -> None:
    model, dataset = names["model"], SFTDataset("train.jsonl", names["tokenizer"])
    apply_lora_to_model(model, use_dora=True)
    config = TrainingConfig(max_steps=4, warmup_steps=1, save_every=2, output_dir="here", lora_dropout=0.0)
    first = Trainer(model, config, dataset).train()
    again = Trainer(model, config, dataset).train()
    assert again == first


def test_the_same_model_goes_on_as_a_fresh_one_would(names: dict[str, Any], tiny_model: Path) -> None:
    """With dropout: what is tried out before training must not depend on the mode a model was left in."""
    dataset = SFTDataset("train.jsonl", names["tokenizer"])
    options = {"max_steps": 4, "warmup_steps": 1, "save_every": 2, "lora_dropout": 0.1}

    def resumed_after_step_two(output_dir: str, model: Any) -> dict[str, Any]:
        shutil.rmtree(Path(output_dir) / "step_00000004")
        return Trainer(model, TrainingConfig(**options, output_dir=output_dir), dataset).train()

    model = names["model"].eval()
    apply_lora_to_model(model, dropout=0.1)
    whole = Trainer(model, TrainingConfig(**options, output_dir="here"), dataset).train()
    assert not model.training
    shutil.copytree("here", "there")
    fresh = load_base(ModelConfig(path=str(tiny_model)), seed=0).model
    apply_lora_to_model(fresh, dropout=0.1)
    assert resumed_after_step_two("here", model) == whole
    assert resumed_after_step_two("there", fresh) == whole


def test_orpo_uses_beta_whatever_the_mode_says(names: dict[str, Any]) -> None:
    losses = []
    for beta, mode in ((0.1, "sft"), (2.0, "sft"), (2.0, "orpo")):
        model = load_base(ModelConfig(path=names["tokenizer"].name), seed=0).model
        apply_lora_to_model(model)
        config = TrainingConfig(beta=beta, training_mode=mode, max_steps=1, output_dir=f"{beta}{mode}")
        losses.append(
            ORPOTrainer(model, config, ORPODataset("prefs.jsonl", names["tokenizer"])).train()["loss"]
        )
    assert losses[0] != pytest.approx(losses[1], rel=1e-3) and losses[1] == pytest.approx(losses[2], rel=1e-3)


def test_the_flat_config_and_the_composed_one_say_the_same() -> None:
    config = TrainingConfig(training_mode="orpo", beta=0.3, use_dora=False, lora_scale=4.0, seed=7)
    assert from_run_values(to_run_values(config)) == config
    with pytest.raises(ConfigError, match="alpha"):
        from_run_values({"adapter": {"name": "lora", "scale": None, "alpha": 16.0}})
    for wrong in ({"training_mode": "dpo"}, {"beta": -1.0}, {"max_steps": 0}, {"lora_dropout": 1.0}):
        with pytest.raises(ConfigError):
            TrainingConfig(**wrong)


def test_rows_whose_answer_is_cut_away_are_left_out(names: dict[str, Any]) -> None:
    model = names["model"]
    apply_lora_to_model(model)
    config = TrainingConfig(max_steps=1, max_seq_len=8)
    with pytest.raises(DataError, match="none of which has one"):
        Trainer(model, config, SFTDataset("train.jsonl", names["tokenizer"])).train()
