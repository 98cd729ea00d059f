"""Every fast path against the model's own code: each sequence alone, all logits, autodiff."""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.nn as nn
import numpy as np
import pytest
from architectures import COMMON, EXTRA, build, pair_batch, plain_sums_and_gradients, token_batch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from bit_axon.backend import mx
from bit_axon.models.cpu.kernels import exponential, runs_on_cpu, swiglu, swiglu_backward
from bit_axon.models.cpu.streams import Streams
from bit_axon.models.policy import Policy
from bit_axon.training.batches import Batch
from bit_axon.training.methods import build_method

LOSS, GRADIENT = 1e-6, 1e-5  # relative; what the issue of these paths promises
WRITTEN_OUT = ("qwen2", "qwen3", "llama", "qwen2_moe")

lengths = st.integers(2, 60)
packs = st.lists(st.lists(lengths, min_size=1, max_size=4), min_size=1, max_size=4)
pairs = st.lists(st.tuples(st.integers(2, 70), lengths, lengths), min_size=1, max_size=4)


def quickly(test: Callable[..., None]) -> Callable[..., None]:
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=12, deadline=None, suppress_health_check=checks, derandomize=True)(test)


def assert_equal(model: nn.Module, policy: Policy, method_name: str, batch: Batch) -> None:
    """Against float64. Where its own rounding keeps the plain float32 path from the tolerance, as it does
    where a gradient's terms cancel, a fast path may be as far off as the plain one."""
    method = build_method({"name": method_name})
    sums, gradients = policy.sums_and_gradients(method.loss, batch)
    truth, slopes = plain_sums_and_gradients(model, method, batch, wide=_knows_float64(model))
    assert float(sums[0]) == pytest.approx(float(truth[0]), rel=LOSS, abs=LOSS)
    assert float(sums[1]) == float(truth[1])
    assert gradients.keys() == slopes.keys()
    errors = worst_errors({name: np.array(gradient) for name, gradient in gradients.items()}, slopes)
    if max(errors.values()) > GRADIENT:
        plain = worst_errors(plain_sums_and_gradients(model, method, batch)[1], slopes)
        far = {name: error for name, error in errors.items() if error > max(GRADIENT, 2 * plain[name])}
        assert not far, far


def _knows_float64(model: nn.Module) -> bool:
    """MLX has no float64 product for packed weights."""
    return not any(name.endswith("scales") for name, _ in tree_flatten(model.parameters()))


def worst_errors(found: dict[str, np.ndarray], slopes: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest error of each gradient, relative to its largest element."""
    largest = max(np.abs(slope).max() for slope in slopes.values())
    scales = {name: max(np.abs(slope).max(), 0.05 * largest) for name, slope in slopes.items()}
    return {name: float(np.abs(found[name] - slope).max() / scales[name]) for name, slope in slopes.items()}


@pytest.fixture(scope="module")
def models() -> Callable[..., tuple[nn.Module, Policy]]:
    made: dict[Any, tuple[nn.Module, Policy]] = {}

    def model(kind: str, adapter: str, *, quantized: bool = False) -> tuple[nn.Module, Policy]:
        key = (kind, adapter, quantized)
        if key not in made:
            built = build(kind, adapter=adapter, quantized=quantized)
            made[key] = (built, Policy(built, packed=True, vocab_size=96))
        return made[key]

    return model


needs_cpu = pytest.mark.skipif(not runs_on_cpu(), reason="written-out passes are for a CPU")


@needs_cpu
@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize("kind", WRITTEN_OUT)
@quickly
@given(rows=packs, seed=st.integers(0, 2**16))
def test_packs_of_any_shape(models: Any, kind: str, adapter: str, rows: list[list[int]], seed: int) -> None:
    model, policy = models(kind, adapter)
    assert policy.is_written_out
    batch = token_batch(np.random.default_rng(seed), rows, max(map(sum, rows)) + 3)
    if batch.supervised_tokens:
        assert_equal(model, policy, "sft", batch)


@needs_cpu
@pytest.mark.parametrize(("kind", "adapter"), [("qwen2", "lora"), ("llama", "dora")])
@quickly
@given(sizes=pairs, seed=st.integers(0, 2**16))
def test_pairs_with_shared_prompts(
    models: Any, kind: str, adapter: str, sizes: list[tuple[int, int, int]], seed: int
) -> None:
    model, policy = models(kind, adapter)
    batch = pair_batch(np.random.default_rng(seed), sizes, max(map(sum, sizes)))
    assert_equal(model, policy, "orpo", batch)


@needs_cpu
@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_a_quantized_base(models: Any, kind: str, adapter: str) -> None:
    model, policy = models(kind, adapter, quantized=True)
    assert policy.is_written_out
    batch = token_batch(np.random.default_rng(0), [[20, 30], [44]], 52)
    assert_equal(model, policy, "sft", batch)


@needs_cpu
def test_sequences_longer_than_a_tile(models: Any) -> None:
    model, policy = models("qwen2", "lora")
    assert_equal(model, policy, "sft", token_batch(np.random.default_rng(0), [[700], [300, 280]], 700))
    assert_equal(model, policy, "orpo", pair_batch(np.random.default_rng(0), [(300, 290, 40)], 600))


@needs_cpu
@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_any_number_of_cores(models: Any, count: int) -> None:
    model, policy = models("llama", "dora")
    own, policy._streams = policy._streams, Streams(count)
    try:
        assert_equal(model, policy, "sft", token_batch(np.random.default_rng(1), [[9, 8, 30], [40], [5]], 50))
        assert_equal(
            model, policy, "orpo", pair_batch(np.random.default_rng(1), [(9, 8, 30), (40, 2, 3)], 60)
        )
    finally:
        policy._streams = own


@pytest.mark.parametrize("method", ["sft", "orpo"])
@pytest.mark.parametrize("kind", sorted(EXTRA))
def test_padded_rows(kind: str, method: str) -> None:
    model = build(kind, adapter="dora")
    packed = kind != "gemma2"
    policy = Policy(model, packed=packed and method == "sft", vocab_size=96, compiled=True)
    assert not policy.is_written_out
    random = np.random.default_rng(2)
    rows = [[12, 9], [20]] if packed else [[21], [20]]
    batch = (
        token_batch(random, rows, 24) if method == "sft" else pair_batch(random, [(9, 5, 8), (12, 3, 3)], 18)
    )
    built = build_method({"name": method})
    sums, gradients = policy.differentiated(built.loss, policy.arrays(batch))
    expected, slopes = plain_sums_and_gradients(model, built, batch)
    assert float(sums[0]) == pytest.approx(float(expected[0]), rel=LOSS, abs=LOSS)
    for name, slope in slopes.items():
        np.testing.assert_allclose(
            np.array(gradients[name]), slope, atol=GRADIENT * max(np.abs(slope).max(), 1e-3), err_msg=name
        )


def test_what_is_not_recognised_is_left_to_its_own_code() -> None:
    assert not Policy(build("gemma2"), packed=False, vocab_size=96).is_written_out
    assert not Policy(build("qwen2", adapter="none"), packed=False, vocab_size=96).is_written_out


def test_a_sliding_window_is_noticed_though_a_trial_is_shorter() -> None:
    from mlx_lm.models.llama import Model, ModelArgs

    kinds = ["sliding_attention", "full_attention"]
    arguments = {"model_type": "llama", **COMMON, "sliding_window": 64, "layer_types": kinds}
    model = Model(ModelArgs.from_dict(arguments))
    model.freeze()
    assert not Policy(model, packed=False, vocab_size=96).is_written_out


@needs_cpu
def test_the_exponential_against_float64() -> None:
    x = mx.linspace(-87, 88, 200_001)
    wide = np.exp(np.array(x, np.float64))
    own, mlx_own = (np.abs(np.array(f(x)) / wide - 1).max() for f in (exponential, mx.exp))
    assert own < 1.1 * mlx_own < 1e-5
    near = mx.linspace(-1, 1, 20_001)
    assert np.abs(np.array(exponential(near)) / np.exp(np.array(near, np.float64)) - 1).max() < 4e-7
    edges = np.array(exponential(mx.array([0.0, -mx.inf, -1e30, mx.inf, mx.nan])))
    assert edges[0] == 1 and (edges[1:3] < 1e-37).all() and edges[3] > 1e38 and np.isnan(edges[4])


@needs_cpu
def test_gating_against_autodiff() -> None:
    gate, up, slope = (mx.random.normal((40, 50), key=mx.random.key(i)) * 4 for i in range(3))
    expected, slopes = mx.vjp(lambda g, u: nn.silu(g) * u, [gate, up], [slope])
    np.testing.assert_allclose(np.array(swiglu(gate, up)), np.array(expected[0]), rtol=3e-6, atol=1e-6)
    for found, wanted in zip(swiglu_backward(gate, up, slope), slopes, strict=True):
        np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=1e-5, atol=3e-6)


def model_of(kind: str, **changes: Any) -> nn.Module:
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    mx.random.seed(0)
    model = module.Model(module.ModelArgs.from_dict({"model_type": kind, **COMMON, **changes}))
    model.freeze()
    return model


@needs_cpu
def test_an_embedding_that_depends_on_the_length_is_noticed() -> None:
    scaled = {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 600}
    assert Policy(model_of("llama"), packed=False, vocab_size=96).is_written_out
    assert not Policy(model_of("llama", **scaled), packed=False, vocab_size=96).is_written_out


def test_norms_over_all_heads_are_left_to_their_own_code() -> None:
    experts = {"num_experts": 4, "num_experts_per_tok": 2}
    assert not Policy(model_of("olmoe", **experts), packed=False, vocab_size=96).is_written_out


@needs_cpu
@pytest.mark.parametrize("kind", ["qwen2", "qwen2_moe"])
def test_dropout_drops_the_same_going_back(kind: str) -> None:
    """Along a direction, the loss changes as the gradient says, when the same is dropped."""
    model = build(kind, dropout=0.4)
    model.train()
    policy = Policy(model, packed=True, vocab_size=96, compiled=kind == "qwen2_moe")
    batch = token_batch(np.random.default_rng(0), [[30], [25]], 32)
    method = build_method({"name": "sft"})

    def run() -> tuple[Any, dict[str, mx.array]]:
        mx.random.seed(7)
        if policy.is_written_out:
            return policy.sums_and_gradients(method.loss, batch)
        return policy.differentiated(method.loss, policy.arrays(batch))

    assert not Policy(model, packed=True, vocab_size=96).is_written_out or kind == "qwen2"
    layer = model.layers[0].self_attn.o_proj
    direction, before = mx.random.normal(layer.lora_b.shape), layer.lora_b
    slope = mx.sum(run()[1]["model.layers.0.self_attn.o_proj.lora_b"] * direction).item()
    losses = []
    for step in (1e-3, -1e-3):
        layer.lora_b = before + step * direction
        losses.append(float(run()[0][0]))
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(slope, rel=0.05)


@needs_cpu
def test_below_the_lowest_adapter_nothing_is_kept() -> None:
    model = build("qwen2", layers=1)
    policy = Policy(model, packed=True, vocab_size=96)
    assert policy.is_written_out
    assert_equal(model, policy, "sft", token_batch(np.random.default_rng(0), [[20, 30], [44]], 52))
    assert policy._cpu is not None and policy._cpu._first == len(model.layers) - 1


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("method", ["sft", "orpo"])
def test_a_batch_without_targets_weighs_nothing(method: str, compiled: bool) -> None:
    policy = Policy(build("qwen2"), packed=False, vocab_size=96, compiled=compiled)
    batch = pair_batch(np.random.default_rng(0), [(9, 5, 8)], 18)
    batch = replace(batch, mask=np.zeros_like(batch.mask), supervised_tokens=0)
    loss = build_method({"name": method}).loss
    if policy.is_written_out:
        sums, gradients = policy.sums_and_gradients(loss, batch)
        assert float(policy.sums(loss, batch)[0]) == 0
    else:
        sums, gradients = policy.differentiated(loss, policy.arrays(batch))
    assert float(sums[0]) == float(sums[1]) == 0
    assert gradients and all(not mx.any(gradient).item() for gradient in gradients.values())


@needs_cpu
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_policies_share_their_streams() -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    batch = token_batch(np.random.default_rng(0), [[20, 30], [44]], 52)
    counts = []
    for _ in range(4):
        policy = Policy(build("qwen2"), packed=True, vocab_size=96)
        policy._streams = Streams(3)
        policy.sums(build_method({"name": "sft"}).loss, batch)
        counts.append(threads())
    assert counts[-1] == counts[0]
