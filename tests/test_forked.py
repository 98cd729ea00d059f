"""Shared prompts through the cache protocol, against the model's own code: each row alone, autodiff."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mlx.nn as nn
import numpy as np
import pytest
from architectures import (
    COMMON,
    EXTRA,
    VOCABULARY,
    build,
    pair_batch,
    plain_sums_and_gradients,
    token_batch,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bit_axon.backend import detect, mx
from bit_axon.models.forked import ForkedRunner, forking_is_exact, shares_prompts
from bit_axon.models.inputs import ArrayBatch, shared_length
from bit_axon.models.padded import PaddedRunner
from bit_axon.models.policy import Policy
from bit_axon.training.batches import Batch
from bit_axon.training.methods import Method, build_method

LOSS, GRADIENT = 1e-6, 1e-5  # relative
ROUNDING = 4  # times the error of the plain float32 path, where that keeps a gradient from GRADIENT
SHARING = ("qwen2", "qwen3", "llama", "qwen2_moe")
WIDTH = 120  # as rows of their own, these sequences would always be more work

Sizes = list[tuple[int, ...]]

lengths = st.integers(2, 40)
pairs = st.lists(st.tuples(st.integers(1, 70), lengths, lengths), min_size=1, max_size=4)
triples = st.lists(st.tuples(st.integers(1, 70), lengths, lengths, lengths), min_size=1, max_size=3)


def quickly(test: Callable[..., None]) -> Callable[..., None]:
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=10, deadline=None, suppress_health_check=checks, derandomize=True)(test)


def group_batch(seed: int, groups: Sequence[tuple[int, ...]], width: int = WIDTH) -> Batch:
    """Groups of (prompt, response, response, ...) tokens; responses are supervised throughout."""
    random = np.random.default_rng(seed)
    count, size = len(groups), len(groups[0]) - 1
    tokens = random.integers(0, VOCABULARY, (size * count, width)).astype(np.int32)
    mask, segments = np.zeros(tokens.shape, np.float32), np.zeros(tokens.shape, np.int32)
    for group, (prompt, *responses) in enumerate(groups):
        for side, length in enumerate(responses):
            row = group + side * count
            tokens[row, :prompt] = tokens[group, :prompt]
            mask[row, prompt : prompt + length] = 1
            segments[row, : prompt + length] = 1
    real = int((segments > 0).sum())
    return Batch(tokens, mask, segments, count, real, int(mask.sum()), group_size=size)


def sharing(model: nn.Module) -> Policy:
    """A policy whose prompts are shared, steps as they are compiled."""
    policy = Policy(model, packed=False, vocab_size=VOCABULARY, compiled=True)
    plain = PaddedRunner(model.model, len(model.layers), packed=False)
    policy._runner = ForkedRunner(model.model, len(model.layers), plain)
    return policy


@pytest.fixture(scope="module")
def policies() -> Callable[[str, str], Policy]:
    made: dict[tuple[str, str], Policy] = {}

    def policy(kind: str, adapter: str) -> Policy:
        if (kind, adapter) not in made:
            made[kind, adapter] = sharing(build(kind, adapter=adapter))
        return made[kind, adapter]

    return policy


def assert_equal(policy: Policy, method_name: str, batch: Batch) -> None:
    method = build_method({"name": method_name})
    arrays = policy.arrays(batch)
    assert shares_prompts(arrays)
    assert_result(policy.differentiated(method.loss, arrays), policy.model, method, batch)


def assert_result(
    found: tuple[Any, dict[str, mx.array]], model: nn.Module, method: Method, batch: Batch
) -> None:
    """Against float64; where a gradient's terms cancel, also against how far off plain float32 is."""
    sums, gradients = found
    truth, slopes = plain_sums_and_gradients(model, method, batch, wide=True)
    assert float(sums[0]) == pytest.approx(float(truth[0]), rel=LOSS, abs=LOSS)
    assert float(sums[1]) == float(truth[1])
    assert gradients.keys() == slopes.keys()
    errors = worst_errors({name: np.array(gradient) for name, gradient in gradients.items()}, slopes)
    if max(errors.values()) > GRADIENT:
        plain = worst_errors(plain_sums_and_gradients(model, method, batch)[1], slopes)
        far = {
            name: error
            for name, error in errors.items()
            if not error <= max(GRADIENT, ROUNDING * plain[name])
        }
        assert not far, far


def worst_errors(found: dict[str, np.ndarray], slopes: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest error of each gradient, relative to its largest element."""
    largest = max(np.abs(slope).max() for slope in slopes.values())
    scales = {name: max(np.abs(slope).max(), 0.05 * largest) for name, slope in slopes.items()}
    return {name: float(np.abs(found[name] - slope).max() / scales[name]) for name, slope in slopes.items()}


@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize("kind", SHARING)
@quickly
@given(sizes=pairs, seed=st.integers(0, 2**16))
def test_pairs_of_any_lengths(policies: Any, kind: str, adapter: str, sizes: Sizes, seed: int) -> None:
    assert_equal(policies(kind, adapter), "orpo", group_batch(seed, sizes))


@quickly
@given(sizes=triples, seed=st.integers(0, 2**16))
def test_groups_of_three(policies: Any, sizes: Sizes, seed: int) -> None:
    assert_equal(policies("qwen2", "dora"), "sft", group_batch(seed, sizes))


@quickly
@given(sizes=pairs, seed=st.integers(0, 2**16), slots=st.integers(1, 100))
def test_planned_sizes(policies: Any, sizes: Sizes, seed: int, slots: int) -> None:
    """Prompts longer than planned share their beginning; a size too small for a response is not kept to."""
    policy, longest = policies("llama", "dora"), max(max(responses) for _, *responses in sizes)
    batch = replace(group_batch(seed, sizes), prompt_slots=slots, response_slots=WIDTH - 1 - slots)
    prompts, responses, *_ = policy.arrays(batch).inputs
    assert prompts.shape[1] == slots
    assert responses.shape[1] == WIDTH - 1 - slots or WIDTH - 1 - slots < longest <= responses.shape[1]
    assert_equal(policy, "orpo", batch)


def test_no_slots_for_prompts(policies: Any) -> None:
    batch = replace(group_batch(0, [(30, 20, 9)]), prompt_slots=0, response_slots=WIDTH - 1)
    assert not shares_prompts(policies("llama", "dora").arrays(batch))


def test_rows_that_share_nothing(policies: Any) -> None:
    batch = group_batch(0, [(30, 20, 9), (12, 3, 8)])
    batch.tokens[2, 0] = (batch.tokens[0, 0] + 1) % VOCABULARY
    assert shared_length(batch, (0, 2)) == 0
    assert_equal(policies("llama", "lora"), "orpo", batch)


def test_missing_pairs_and_missing_targets(policies: Any) -> None:
    policy, method = policies("qwen3", "dora"), build_method({"name": "orpo"})
    whole = group_batch(0, [(30, 20, 9), (12, 3, 8), (20, 5, 5)])
    for array in (whole.tokens, whole.mask, whole.segments):
        array[[1, 4]] = 0  # a missing pair
    whole.mask[5] = 0  # a rejected response that was cut away
    batch = Batch(whole.tokens, whole.mask, whole.segments, 2, 0, int(whole.mask.sum()), group_size=2)
    assert_equal(policy, "orpo", batch)
    nothing = replace(batch, mask=0 * whole.mask, supervised_tokens=0, target_slots=16)
    sums, gradients = policy.differentiated(method.loss, policy.arrays(nothing))
    assert float(sums[0]) == float(sums[1]) == 0
    assert all(not np.array(gradient).any() for gradient in gradients.values())


def test_log_probabilities_stand_where_the_targets_are(policies: Any) -> None:
    policy = policies("llama", "dora")
    batch = group_batch(3, [(30, 20, 9, 7), (12, 3, 8, 11)])
    plain = PaddedRunner(policy.model.model, 2, packed=False)
    found = np.array(policy.token_logps(policy.arrays(batch)))
    policy._runner, forked = plain, policy._runner
    expected = np.array(policy.token_logps(policy.arrays(batch)))
    policy._runner = forked
    assert found.shape == batch.tokens.shape and not found[batch.mask == 0].any()
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.skipif(not detect().compiles, reason="nothing is compiled here")
def test_one_compiled_function_for_all_lengths() -> None:
    model = build("qwen2", adapter="lora")
    policy, method = sharing(model), build_method({"name": "orpo"})
    traces = []

    def both(arrays: ArrayBatch) -> Any:
        traces.append(arrays)
        return policy.differentiated(method.loss, ArrayBatch(*arrays))

    compiled = mx.compile(both, inputs=[model.state])
    for seed, sizes in enumerate(
        [[(30, 20, 9), (17, 3, 8)], [(18, 17, 21), (3, 30, 2)], [(1, 2, 18), (32, 9, 5)]]
    ):
        batch = replace(group_batch(seed, sizes), target_slots=80)
        result = compiled(policy.arrays(batch))
        mx.eval(result)
        assert_result(result, model, method, batch)
    assert len(traces) == 1


def test_a_prompt_runs_once(policies: Any) -> None:
    model = build("qwen2")
    shapes: list[list[int]] = []

    def body(tokens: mx.array, cache: Any = None) -> mx.array:
        shapes.append(tokens.shape)
        return model.model(tokens, cache=cache)

    runner = ForkedRunner(body, 2, PaddedRunner(body, 2, packed=False))
    batch = group_batch(0, [(64, 64, 60), (50, 62, 63), (64, 48, 64)], width=129)
    runner.rows(runner.place(batch))
    assert shapes == [(3, 64), (6, 64)]  # 576 positions instead of 768


def test_batches_that_gain_nothing_run_as_plain_rows(policies: Any) -> None:
    policy, random = policies("qwen2", "lora"), np.random.default_rng(0)
    assert not shares_prompts(policy.arrays(pair_batch(random, [(3, 20, 20), (21, 2, 2)], 24)))
    assert not shares_prompts(policy.arrays(token_batch(random, [[20], [30]], 60)))
    method, batch = build_method({"name": "sft"}), token_batch(random, [[20], [30]], 60)
    assert_result(policy.differentiated(method.loss, policy.arrays(batch)), policy.model, method, batch)


def tiny(kind: str, **changes: Any) -> nn.Module:
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    mx.random.seed(0)
    return module.Model(module.ModelArgs.from_dict({"model_type": kind, **COMMON, **changes}))


@pytest.mark.parametrize("kind", SHARING)
def test_models_that_can_share(kind: str) -> None:
    assert forking_is_exact(build(kind, quantized=True, adapter="dora"), VOCABULARY)
    model = build(kind)
    if "moe" not in kind:  # MLX gathers no bfloat16 experts on a CPU
        model.set_dtype(mx.bfloat16)
    assert forking_is_exact(model, VOCABULARY) and forking_is_exact(model.model, VOCABULARY)


GPT2: dict[str, Any] = {  # learned positions, looked up row by row
    "n_ctx": 64,
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 64,
    "layer_norm_epsilon": 1e-5,
}
# What a model needs besides `COMMON`; windows are wider than the probe, so that only asking finds them.
OTHERS: dict[str, dict[str, Any]] = {
    "gemma2": EXTRA["gemma2"],  # a soft cap whose mask is not by row
    "gemma3_text": {"head_dim": 8, "sliding_window": 512, "sliding_window_pattern": 2},
    "llama": {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 512},
    "gpt_bigcode": GPT2
    | {  # learned positions, the same for all rows
        "n_inner": 64,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "multi_query": True,
    },
    "mamba2": {  # recurrent
        "num_heads": 4,
        "head_dim": 16,
        "state_size": 8,
        "layer_norm_epsilon": 1e-5,
        "conv_kernel": 4,
        "n_groups": 1,
        "use_bias": False,
        "use_conv_bias": False,
        "tie_word_embeddings": True,
        "time_step_limit": (0.0, 10.0),
        "time_step_rank": "auto",
    },
}


def test_learned_positions() -> None:
    assert forking_is_exact(tiny("gpt2", **GPT2), VOCABULARY)


@pytest.mark.parametrize("kind", sorted(OTHERS))
def test_models_that_cannot(kind: str) -> None:
    model = tiny(kind, **OTHERS[kind])
    mx.eval(model(mx.array([[1, 2, 3]])))  # a model that runs
    assert not forking_is_exact(model, VOCABULARY)


def test_the_check_leaves_the_mode_and_the_random_numbers_alone() -> None:
    model = build("qwen2", dropout=0.5)
    model.train()
    mx.random.seed(4)
    expected = np.array(mx.random.normal((3,)))
    mx.random.seed(4)
    assert forking_is_exact(model, VOCABULARY) and model.training
    np.testing.assert_array_equal(np.array(mx.random.normal((3,))), expected)
