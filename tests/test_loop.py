"""Invariants of the loop and of what it is made of."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Runner

from bit_axon.backend import Compilation, mx
from bit_axon.data.examples import Example, PairExample
from bit_axon.errors import NonFiniteLossError
from bit_axon.models.loading import load_base
from bit_axon.models.padded import packing_is_exact
from bit_axon.models.policy import Policy
from bit_axon.schema import AdapterConfig, ModelConfig, TrainingOptions
from bit_axon.training.adapters import adapter_parameters, attach_adapter
from bit_axon.training.collate import PairBatchPlan, TokenBatchPlan
from bit_axon.training.dora import DoRALinear
from bit_axon.training.loop import Loop, LoopLimits, LoopParts
from bit_axon.training.loop_state import LoopState
from bit_axon.training.methods import build_method
from bit_axon.training.optimizers import build_optimizer
from bit_axon.training.records import Evaluation
from bit_axon.training.scheduler import learning_rate_at
from bit_axon.training.session import SilentObserver
from bit_axon.training.stepper import Stepper


def examples(count: int, seed: int = 0) -> list[Example]:
    """Random sequences of different lengths and different shares of targets."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        length = int(random.integers(5, 24))
        mask = np.zeros(length, np.uint8)
        mask[int(random.integers(1, length - 1)) :] = 1
        found.append(Example(random.integers(3, 300, length).astype(np.int32), mask))
    return found


def pairs(count: int) -> list[PairExample]:
    return [PairExample(*two) for two in zip(examples(count, 1), examples(count, 2), strict=True)]


def stepper(folder: Path, method: str, *, packed: bool = False, compile: bool = False) -> Stepper:
    model = load_base(ModelConfig(path=str(folder)), seed=0).model
    attach_adapter(model, AdapterConfig(name="dora"), seed=0)
    mx.random.seed(1)
    for layer in model.layers:  # zero B would hide what A does
        for _, module in layer.named_modules():
            if "lora_b" in module:
                module.lora_b = 0.02 * mx.random.normal(module.lora_b.shape)
    optimizer = build_optimizer(TrainingOptions(optimizer="sgd"), model)
    options = {"max_grad_norm": 1.0, "seed": 0, "compilation": Compilation(compile, compile)}
    return Stepper(
        Policy(model, packed=packed, vocab_size=300, compiled=compile),
        build_method({"name": method}),
        optimizer,
        **options,
    )


def plan(method: str, batch_size: int, count: int = 12, *, packing: bool = False):
    common = {"batch_size": batch_size, "max_seq_len": 64, "pad_token_id": 0, "seed": 0, "shuffle": False}
    if method == "orpo":
        return PairBatchPlan(pairs(count), **common)
    return TokenBatchPlan(examples(count), packing=packing, eos_token_id=2, **common)


@pytest.mark.parametrize("method", ["sft", "orpo"])
def test_micro_batches_equal_one_batch(method: str, tiny_model: Path) -> None:
    updates = []
    for size in (12, 3):
        stepping, batches = stepper(tiny_model, method), plan(method, size)
        for index in range(12 // size):
            stepping.add(batches.batch(0, index), index)
        result = stepping.apply(0.1)
        updates.append((result, adapter_parameters(stepping.model)))
    (one, after_one), (four, after_four) = updates
    assert one.loss == pytest.approx(four.loss, rel=1e-6)
    assert one.grad_norm == pytest.approx(four.grad_norm, rel=1e-5)
    assert one.metrics == pytest.approx(four.metrics, rel=1e-5, abs=1e-6)
    for name, value in after_one.items():
        np.testing.assert_allclose(np.array(value), np.array(after_four[name]), atol=1e-6)


def test_packed_equals_unpacked(tiny_model: Path) -> None:
    results = []
    for packed in (False, True):
        stepping, batches = stepper(tiny_model, "sft", packed=packed), plan("sft", 4, packing=packed)
        for index in range(batches.batches_in_epoch(0)):
            stepping.add(batches.batch(0, index), index)
        results.append(stepping.apply(0.1))
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-6)
    assert results[0].grad_norm == pytest.approx(results[1].grad_norm, rel=1e-5)


def test_compiled_equals_uncompiled(tiny_model: Path) -> None:
    results = []
    for compile in (False, True):
        stepping, batches = stepper(tiny_model, "orpo", compile=compile), plan("orpo", 6)
        results.append([])
        for step in range(2):
            for index in range(2):
                stepping.add(batches.batch(0, index), 2 * step + index)
            results[-1].append(stepping.apply(0.1))
    for plain, compiled in zip(*results, strict=True):
        assert plain.loss == pytest.approx(compiled.loss, rel=1e-5)
        assert plain.grad_norm == pytest.approx(compiled.grad_norm, rel=1e-4)


def test_token_logps_against_float64(tiny_model: Path) -> None:
    model = load_base(ModelConfig(path=str(tiny_model)), seed=0).model
    batch = plan("sft", 4).batch(0, 0)
    policy = Policy(model, packed=False, vocab_size=300)
    found = np.array(policy.token_logps(policy.arrays(batch)))
    logits = np.array(model(mx.array(batch.tokens)), np.float64)
    for row, position in zip(*np.nonzero(batch.mask), strict=True):
        scores = logits[row, position - 1]
        top = scores.max()
        expected = scores[batch.tokens[row, position]] - top - np.log(np.exp(scores - top).sum())
        assert found[row, position] == pytest.approx(expected, abs=2e-6)
    assert not found[batch.mask == 0].any()


def test_packing_is_refused_where_it_would_not_be_exact(tiny_model: Path) -> None:
    from mlx_lm.models import mamba2, mistral3, qwen2

    assert packing_is_exact(load_base(ModelConfig(path=str(tiny_model)), seed=0).model, 300)
    assert qwen2 is not None and mamba2 is not None and mistral3 is not None
    arguments = {
        "model_type": "gemma3_text",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "head_dim": 16,
        "num_key_value_heads": 1,
        "vocab_size": 64,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
    }
    from mlx_lm.models.gemma3_text import Model, ModelArgs

    assert not packing_is_exact(Model(ModelArgs.from_dict(arguments)), 64)


def test_schedule_by_hand() -> None:
    def rate(step: int, **changes: object) -> float:
        options = {"peak": 1.0, "minimum": 0.2, "warmup_steps": 4, "max_steps": 10} | changes
        return learning_rate_at(step, **options)

    assert [rate(step) for step in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate(7) == pytest.approx(0.6) and rate(10) == pytest.approx(0.2)
    assert rate(7, schedule="linear") == pytest.approx(0.6) and rate(8, schedule="constant") == 1.0
    assert rate(1, warmup_steps=0) == pytest.approx(0.2 + 0.4 * (1 + np.cos(np.pi / 10)))


def test_no_decay_on_vectors(tiny_model: Path) -> None:
    model = load_base(ModelConfig(path=str(tiny_model)), seed=0).model
    attach_adapter(model, AdapterConfig(name="dora"), seed=0)
    optimizer = build_optimizer(TrainingOptions(weight_decay=0.5), model)
    optimizer.learning_rate = 0.1
    before = {name: np.array(value) for name, value in adapter_parameters(model).items()}
    from mlx.utils import tree_map

    optimizer.update(model, tree_map(mx.zeros_like, model.trainable_parameters()))
    for name, value in adapter_parameters(model).items():
        scale = 1.0 if name.endswith(".m") else 0.95
        np.testing.assert_allclose(np.array(value), scale * before[name], rtol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run(run: Runner, small_run: list[str]) -> None:
    done = run(
        *small_run,
        "adapter=none",
        "training.optimizer=sgd",
        "training.learning_rate=1e30",
        "training.max_grad_norm=0",
        "training.max_steps=20",
        "training.save_every=1",
    )
    assert done.code == 1
    assert "Last good checkpoint" in done.err and "Traceback" not in done.err
    assert NonFiniteLossError.exit_code == 1
    assert done.result["state"] == "failed" and done.result["stop_reason"] == "non_finite_loss"
    assert not (done.run_dir / "adapters.safetensors").exists()
    last = max(int(p.name.split("_")[1]) for p in (done.run_dir / "checkpoints").glob("step_*"))
    assert last == done.result["step"]
    lines = [json.loads(line) for line in (done.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["text"] == "failed: non_finite_loss"


def test_a_cut_by_the_clock_does_not_change_when_the_run_stops_early(tiny_model: Path) -> None:
    """The evaluation at a cut is none of those that early stopping counts."""

    def losses(step: int) -> Evaluation:
        return Evaluation(loss=1.0 if step < 6 else 2.0, metrics={}, examples=1)

    def stop_after(seconds: float | None) -> tuple[int, int]:
        stepping, state, cuts = stepper(tiny_model, "sft"), LoopState(), 0
        limits = LoopLimits(30, 1, eval_every=4, max_seconds=seconds, early_stop_patience=3)
        while True:
            saved: list[dict] = []
            parts = LoopParts(
                stepping,
                plan("sft", 4),
                learning_rate=lambda step: 0.01,
                observer=SilentObserver(),
                evaluate=lambda state=state: losses(state.step),
                save=lambda state, saved=saved: saved.append(state.to_dict()),
                clock=lambda state=state: float(state.step),
            )
            reason = Loop(parts, limits, state).run()
            if reason == "early_stop":
                return state.step, cuts
            assert reason == "time_limit"
            state, cuts = LoopState.from_dict(saved[-1]), cuts + 1

    whole, cut = stop_after(None), stop_after(3.0)
    assert whole == (12, 0) and cut == (12, 4)


def test_norms_of_dora_are_made_once_per_update(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stepping = stepper(tiny_model, "sft", compile=True)
    made: list[int] = []
    plain = DoRALinear.row_norms
    monkeypatch.setattr(DoRALinear, "row_norms", lambda layer: (made.append(1), plain(layer))[1])
    layers = sum(isinstance(layer, DoRALinear) for layer in stepping.model.modules())
    batches = plan("sft", 4)
    for step in range(2):
        for index in range(3):
            stepping.add(batches.batch(0, index), 3 * step + index)
        stepping.evaluate(batches.batch(0, 0))
        stepping.apply(1e-2)
    assert len(made) == 2 * layers
