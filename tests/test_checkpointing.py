"""Gradient checkpointing: the same numbers in less memory, and nothing is changed by it."""

from collections.abc import Callable
from typing import Any

import mlx.nn as nn
import numpy as np
import pytest
from architectures import VOCABULARY, build, pair_batch, token_batch
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs

from bit_axon.backend import mx
from bit_axon.errors import ConfigError
from bit_axon.models.checkpointing import checkpointed
from bit_axon.models.forked import forked_hidden
from bit_axon.models.head import split_model, target_logps
from bit_axon.models.padded import PaddedRunner, SegmentCache
from bit_axon.schema import AdapterConfig
from bit_axon.training.attach import attach_adapter

Body = Callable[..., Any]


def found_with(model: nn.Module, run: Callable[[], mx.array]) -> tuple[float, dict[str, np.ndarray]]:
    """The value and gradients of what `run` computes with the model."""
    parameters = model.trainable_parameters()

    def value(trainable: Any) -> mx.array:
        model.update(trainable)
        return run()

    result, gradients = mx.value_and_grad(value)(parameters)
    model.update(parameters)
    return float(result), {name: np.array(g) for name, g in tree_flatten(gradients)}


def assert_equal(model: nn.Module, run_with: Callable[[Body], mx.array]) -> None:
    """The same with the plain body and the view of it."""
    body = model.model
    view = checkpointed(body, VOCABULARY)
    expected, slopes = found_with(model, lambda: run_with(body))
    found, gradients = found_with(model, lambda: run_with(view))
    assert found == pytest.approx(expected, rel=1e-6)
    assert gradients.keys() == slopes.keys()
    for name, slope in slopes.items():
        assert np.abs(slope).max() > 0, name
        np.testing.assert_allclose(gradients[name], slope, atol=1e-5 * np.abs(slope).max(), err_msg=name)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["qwen2", "llama", "qwen2_moe"])
def test_losses_and_gradients(kind: str, packed: bool) -> None:
    model = build(kind, adapter="dora")
    head = split_model(model, VOCABULARY).head
    batch = token_batch(np.random.default_rng(0), [[12, 9], [20]] if packed else [[21], [20]], 24)

    def loss(body: Body) -> mx.array:
        runner = PaddedRunner(body, len(model.layers), packed=packed)
        arrays = runner.place(batch)
        return -(target_logps(head, runner.rows(arrays), arrays.targets) * arrays.weights).sum()

    assert_equal(model, loss)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "qwen2_moe"])
def test_keys_and_values_in_caches_get_their_gradients(kind: str) -> None:
    """Prompts that run once: the responses' gradients go back through what the caches hold."""
    model = build(kind)
    batch = pair_batch(np.random.default_rng(0), [(9, 5, 8), (9, 3, 7)], 18)
    tokens = mx.array(batch.tokens)
    slopes = mx.random.normal((4, 9, 32), key=mx.random.key(1))

    def loss(body: Body) -> mx.array:
        hidden = forked_hidden(body, len(model.layers), tokens[:2, :9], tokens[:, 9:], mx.array([9, 8]))
        return (hidden * slopes).sum()

    assert_equal(model, loss)


def test_all_weights_trained() -> None:
    model = build("qwen2", adapter="none")
    tokens = mx.array(token_batch(np.random.default_rng(0), [[20], [20]], 20).tokens)
    slopes = mx.random.normal((2, 20, 32), key=mx.random.key(1))
    assert_equal(model, lambda body: (body(tokens) * slopes).sum())


def test_both_runs_drop_the_same() -> None:
    """The loss is linear in B of the last layer of all, so its gradient tells what was dropped."""
    model = build("llama", dropout=0.5)
    model.train()
    view = checkpointed(model.model, VOCABULARY)
    tokens = mx.array(token_batch(np.random.default_rng(0), [[20]], 20).tokens)
    layer = model.model.layers[-1].mlp.down_proj
    slopes = mx.random.normal((1, 20, 32), key=mx.random.key(1))

    def hidden(factor: mx.array) -> mx.array:
        layer.lora_b = factor
        mx.random.seed(3)
        return (view(tokens) * slopes).sum()

    factor, step = layer.lora_b, mx.random.normal(layer.lora_b.shape, key=mx.random.key(2))
    slope = (mx.grad(hidden)(factor) * step).sum().item()
    expected = (hidden(factor + 1e-2 * step) - hidden(factor - 1e-2 * step)).item() / 2e-2
    assert slope == pytest.approx(expected, rel=2e-2)
    layer.lora_b = factor
    mx.random.seed(4)
    other = (view(tokens) * slopes).sum().item()
    assert other != hidden(factor).item()


def test_compiled() -> None:
    model = build("qwen2", dropout=0.5)
    view = checkpointed(model.model, VOCABULARY)
    tokens = mx.array(token_batch(np.random.default_rng(0), [[20]], 20).tokens)
    model.train()

    def step(tokens: mx.array) -> Any:
        parameters = model.trainable_parameters()

        def value(trainable: Any) -> mx.array:
            model.update(trainable)
            return view(tokens).sum()

        found = mx.value_and_grad(value)(parameters)
        model.update(parameters)
        return found

    compiled = mx.compile(step, inputs=[model.state, mx.random.state], outputs=[mx.random.state])
    losses = []
    for run in (step, compiled, compiled):
        mx.random.seed(7)
        loss, gradients = run(tokens)
        losses.append((loss.item(), [np.array(g) for _, g in tree_flatten(gradients)]))
    for loss, gradients in losses[1:]:
        assert loss == pytest.approx(losses[0][0], rel=1e-5)
        for gradient, expected in zip(gradients, losses[0][1], strict=True):
            np.testing.assert_allclose(gradient, expected, atol=1e-4 * max(np.abs(expected).max(), 1e-6))
    assert compiled(tokens)[0].item() != losses[0][0]  # dropout goes on from the state


def test_the_model_is_as_before() -> None:
    model = build("qwen2", dropout=0.5)
    model.train()
    before = dict(tree_flatten(model.parameters()))
    modules = [(path, id(module)) for path, module in model.named_modules()]
    call = type(model.model.layers[0]).__call__
    for _ in range(2):  # views are not nested
        view = checkpointed(model.model, VOCABULARY)
        assert view is not model.model and len(view.layers) == 2
        found_with(model, lambda view=view: view(mx.array([[1, 2, 3]])).sum())
        assert isinstance(view.layers[0]._block, type(model.model.layers[0]))
    assert [(path, id(module)) for path, module in model.named_modules()] == modules
    after = dict(tree_flatten(model.parameters()))
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
    assert type(model.model.layers[0]).__call__ is call and model.training


def test_less_memory() -> None:
    """A deep model: what all blocks compute is more than what one of them computes.

    It also is where the adapters' gradients are computed block by block, which `mx.checkpoint` leaves
    open: then what they need of every block is kept, and nothing is saved.
    """
    model = deep_model()
    tokens = mx.array(token_batch(np.random.default_rng(0), [[128]] * 4, 128).tokens)
    peaks = []
    for body in (model.model, checkpointed(model.model, VOCABULARY)):
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        found_with(model, lambda body=body: body(tokens).sum())
        peaks.append(mx.get_peak_memory() - before)
    plain, less = peaks
    assert less < 0.25 * plain


def deep_model() -> nn.Module:
    values = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 16,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-6,
    }
    model = Model(ModelArgs.from_dict(values))
    attach_adapter(model, AdapterConfig(name="dora"), seed=0)
    return model


def test_what_cannot_be_run_again_is_refused() -> None:
    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(4, 4)]

        def __call__(self, tokens: mx.array) -> mx.array:
            x = mx.repeat(tokens[..., None].astype(mx.float32), 4, axis=-1)
            for layer in self.layers:
                x = layer(x) * (1.0 if isinstance(layer, nn.Linear) else 2.0)
            return x

    with pytest.raises(ConfigError, match=r"gives other values.*Set training\.gradient_checkpointing=false"):
        checkpointed(Body(), VOCABULARY)
    own = Body()
    own.scale = mx.ones(4)
    with pytest.raises(ConfigError, match=r"arrays beside them \(scale\).*gradient_checkpointing=false"):
        checkpointed(own, VOCABULARY)
    none = Body()
    none.layers = nn.Linear(4, 4)
    with pytest.raises(ConfigError, match=r"without a list of layers"):
        checkpointed(none, VOCABULARY)


def test_a_whole_model_whose_head_cannot_be_told_apart() -> None:
    model = build("gemma2")
    view = checkpointed(model, VOCABULARY)
    tokens = mx.array([[1, 2, 3, 4, 5]])
    expected, slopes = found_with(model, lambda: model(tokens).sum())
    found, gradients = found_with(model, lambda: view(tokens).sum())
    assert found == pytest.approx(expected, rel=1e-6)
    for name, slope in slopes.items():
        np.testing.assert_allclose(gradients[name], slope, atol=1e-5 * np.abs(slope).max(), err_msg=name)


def test_a_cache_of_masks_alone_is_shared() -> None:
    model = build("qwen2")
    view = checkpointed(model.model, VOCABULARY)
    segments = mx.array([[1, 1, 2, 2]])
    cache = SegmentCache(segments)
    mask = cache.make_mask(4)
    found = view(mx.array([[1, 2, 3, 4]]), cache=[cache] * 2)
    expected = model.model(mx.array([[1, 2, 3, 4]]), cache=[cache] * 2)
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-6)
    assert cache.make_mask(4) is mask
