"""The head on supervised positions equals the whole model, in value and gradient."""

import mlx.nn as nn
import numpy as np
import pytest
from architectures import EXTRA, VOCABULARY, build
from mlx.utils import tree_flatten

from bit_axon.backend import mx
from bit_axon.models.head import split_model
from bit_axon.models.policy import Policy
from bit_axon.training.batches import Batch
from bit_axon.training.losses import token_logps


def batch() -> Batch:
    random = np.random.default_rng(0)
    tokens = random.integers(0, VOCABULARY, (3, 17)).astype(np.int32)
    mask = (random.random((3, 17)) < 0.4).astype(np.float32)
    mask[:, 0] = 0
    return Batch(tokens, mask, np.ones((3, 17), np.int32), 3, 51, int(mask.sum()))


def value_and_gradients(model: nn.Module, *, split: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    policy = Policy(model, packed=False, vocab_size=VOCABULARY)
    rows = batch()
    arrays, tokens = policy.arrays(rows), mx.array(rows.tokens)
    weights = mx.random.normal(tokens.shape, key=mx.random.key(1))

    def loss(model: nn.Module) -> mx.array:
        if split:
            return mx.sum(policy.token_logps(arrays) * weights)
        logits = model(tokens[:, :-1])
        logps = token_logps(logits, tokens[:, 1:]) * arrays.mask[:, 1:]
        return mx.sum(logps * weights[:, 1:])

    value, gradients = nn.value_and_grad(model, loss)(model)
    return np.array(value), {name: np.array(g) for name, g in tree_flatten(gradients)}


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "4-bit"])
@pytest.mark.parametrize("kind", sorted(EXTRA))
def test_equal_to_the_whole_model(kind: str, quantized: bool) -> None:
    model = build(kind, quantized=quantized)
    expected, expected_gradients = value_and_gradients(model, split=False)
    found, gradients = value_and_gradients(model, split=True)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        scale = np.abs(expected_gradients[name]).max()
        np.testing.assert_allclose(gradient, expected_gradients[name], atol=1e-5 * scale + 1e-7)


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_a_trained_head_gets_its_gradient(kind: str) -> None:
    model = build(kind, adapter="none")
    _, expected = value_and_gradients(model, split=False)
    _, found = value_and_gradients(model, split=True)
    name = "model.embed_tokens.weight" if kind == "qwen2" else "lm_head.weight"
    assert np.abs(found[name]).max() > 0
    np.testing.assert_allclose(found[name], expected[name], atol=1e-5 * np.abs(expected[name]).max())


def test_capped_logits_are_not_split() -> None:
    assert split_model(build("qwen2"), VOCABULARY) is not None
    assert split_model(build("gemma2"), VOCABULARY) is None


def test_chunks_do_not_change_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("qwen2")
    whole, _ = value_and_gradients(model, split=True)
    monkeypatch.setattr("bit_axon.models.head._CPU_BLOCK_BYTES", 4 * VOCABULARY * 5)
    pieces, gradients = value_and_gradients(model, split=True)
    assert pieces == pytest.approx(whole, rel=1e-6)
    assert all(np.isfinite(g).all() for g in gradients.values())
