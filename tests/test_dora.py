"""DoRALinear: forward, fused weight, gradients, the norm without the weight, replaced bases."""

import mlx.nn as nn
import numpy as np
import pytest
from adapter_cases import (
    INPUT_DIMS,
    OUTPUT_DIMS,
    RANK,
    SCALE,
    assert_close,
    float_base,
    layer_of,
    peft_case,
    quantized_bases,
    random_case,
    reference,
    run_layer,
    with_values,
)
from mlx.utils import tree_flatten
from mlx_lm.tuner import dora as peer

from bit_axon.backend import mx
from bit_axon.errors import BitAxonError
from bit_axon.quantization.linear import row_squared_norms
from bit_axon.training.dora import DoRALinear, RowNorms


@pytest.mark.parametrize("bias", [False, True])
def test_agrees_with_float64_and_mlx_lm(bias: bool) -> None:
    base = float_base(bias)
    case = random_case(base, np.asarray(base.weight), magnitude=True)
    layer = with_values(DoRALinear.from_base(base, RANK, scale=SCALE), case)
    other = with_values(peer.DoRALinear.from_base(float_base(bias), RANK, scale=SCALE), case)
    wanted = reference(case, SCALE)
    assert_close(run_layer(layer, case), wanted)
    assert_close(run_layer(layer, case), run_layer(other, case))
    fused, peer_fused = layer.fuse(), other.fuse()
    assert_close({"merged": np.asarray(fused.weight)}, wanted)
    assert_close({"merged": np.asarray(fused.weight)}, {"merged": np.asarray(peer_fused.weight)})
    assert_close({"y": np.asarray(fused(mx.array(case["x"], mx.float32)))}, wanted)


@pytest.mark.parametrize("name", ["dora_plain", "dora_bias"])
def test_agrees_with_recorded_peft_values(name: str) -> None:
    case, wanted, scale = peft_case(name)
    layer = layer_of(case, scale, DoRALinear)
    assert_close(run_layer(layer, case), wanted)
    assert_close({"merged": np.asarray(layer.fuse().weight)}, wanted)
    assert_close(reference(case, scale), wanted, 1e-12)


@pytest.mark.parametrize(("name", "base", "weight"), quantized_bases(), ids=lambda value: str(value)[:9])
def test_every_quantized_base(name: str, base: nn.QuantizedLinear, weight: np.ndarray) -> None:
    case = random_case(base, weight, magnitude=True)
    layer = DoRALinear.from_base(base, RANK, scale=SCALE)
    assert (layer.lora_a.shape, layer.lora_b.shape) == ((INPUT_DIMS, RANK), (RANK, OUTPUT_DIMS))
    with_values(layer, case)
    found, wanted = run_layer(layer, case), reference(case, SCALE)
    assert_close(found, wanted)
    if base.bits not in (3, 5, 6):  # mlx-lm takes the packed width for the input's there
        other = with_values(peer.DoRALinear.from_base(base, RANK, scale=SCALE), case)
        tolerance = 1e-5 if name.startswith("affine") else 1e-2  # mlx-lm rounds those products to bfloat16
        assert_close(found, run_layer(other, case), tolerance)
    tolerance = 1e-5 if name.startswith("affine") else 1e-2
    fused = layer.fuse(dequantize=True).weight.astype(mx.float32)
    assert_close({"merged": np.asarray(fused)}, wanted, tolerance)
    with pytest.raises(BitAxonError, match="dequantize=True"):
        layer.fuse()


def test_starts_at_the_base() -> None:
    base = float_base(bias=True)
    layer = DoRALinear.from_base(base, RANK, scale=SCALE)
    x = mx.random.normal((3, INPUT_DIMS))
    assert mx.allclose(layer(x), base(x), atol=1e-6)
    assert np.allclose(np.asarray(layer.m), np.linalg.norm(np.asarray(base.weight), axis=1), rtol=1e-6)
    assert layer.m.dtype == mx.float32


def test_the_stored_norm_is_no_parameter_and_the_magnitude_can_be_frozen() -> None:
    layer = DoRALinear.from_base(float_base(), RANK)
    names = {name for name, _ in tree_flatten(layer.parameters())}
    assert names == {"linear.weight", "lora_a", "lora_b", "m"}
    layer.freeze(keys=["m"], recurse=False)
    assert {name for name, _ in tree_flatten(layer.trainable_parameters())} == {"lora_a", "lora_b"}


@pytest.mark.parametrize("scale", [0.5, 20.0, 300.0])
def test_forward_equals_fused_for_large_updates(scale: float) -> None:
    base = float_base()
    case = random_case(base, np.asarray(base.weight), magnitude=True)
    layer = with_values(DoRALinear.from_base(base, RANK, scale=scale), case)
    x = mx.array(case["x"], mx.float32)
    assert_close({"y": np.asarray(layer.fuse()(x))}, {"y": np.asarray(layer(x))})


def test_rows_of_zero_length_give_numbers() -> None:
    base = nn.Linear(4, 3, bias=False)
    base.weight = mx.array([[0.0] * 4, [1.0, 0, 0, 0], [1.0, 2, 3, 4]])
    layer = DoRALinear.from_base(base, 1, scale=1.0)
    layer.lora_a, layer.lora_b = mx.array([[1.0], [0], [0], [0]]), mx.array([[0.0, -1.0, 0.0]])
    layer.m = mx.array([1.0, 1.0, 1.0])  # the first row is zero, the second is cancelled by its update
    x = mx.array([[1.0, 2, 3, 4]])
    gradients = mx.grad(lambda m, x: layer.update({"m": m})(x).sum(), argnums=(0, 1))(layer.m, x)
    layer.update({"m": mx.ones(3)})
    for value in (layer(x), layer.fuse().weight, *gradients):
        assert bool(mx.isfinite(value).all())


def base_and_other(quantized: bool) -> tuple[nn.Module, nn.Module]:
    first, second = float_base(seed=1), float_base(seed=2)
    second.weight = 3 * second.weight
    if not quantized:
        return first, second
    return tuple(nn.QuantizedLinear.from_linear(linear, 32, 4) for linear in (first, second))


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("moment", ["before", "after a compiled step"])
def test_a_replaced_base_is_measured_again(quantized: bool, moment: str) -> None:
    base, other = base_and_other(quantized)
    model = nn.Sequential(DoRALinear.from_base(base, RANK, scale=SCALE))
    layer = model.layers[0]
    layer.lora_b = mx.random.normal(layer.lora_b.shape)
    x = mx.random.normal((3, INPUT_DIMS))
    if moment != "before":
        step = mx.compile(model, inputs=[model.state], outputs=[model.state])
        plain = DoRALinear.__call__(layer, x)
        assert mx.allclose(step(x), plain, atol=1e-5)
        model.train()
    model.load_weights([(f"layers.0.linear.{k}", v) for k, v in other.parameters().items()], strict=False)
    wanted = DoRALinear.from_base(other, RANK, scale=SCALE)
    wanted.lora_a, wanted.lora_b, wanted.m = layer.lora_a, layer.lora_b, layer.m
    assert mx.allclose(layer(x), wanted(x), atol=1e-5)
    assert mx.allclose(mx.compile(layer)(x), wanted(x), atol=1e-5)
    model.train()
    assert mx.allclose(layer(x), wanted(x), atol=1e-5)
    assert mx.allclose(layer._base_squared_norms, wanted._base_squared_norms, rtol=1e-6)


def test_compiled_steps_that_capture_the_model_measure_the_base_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[nn.Module] = []

    def counting(linear: nn.Module) -> mx.array:
        measured.append(linear)
        return row_squared_norms(linear)

    monkeypatch.setattr("bit_axon.training.dora.row_squared_norms", counting)
    model = nn.Sequential(DoRALinear.from_base(float_base(), RANK))
    step = mx.compile(model, inputs=[model.state], outputs=[model.state])
    for length in (1, 2, 3):
        step(mx.zeros((length, INPUT_DIMS)))
        model.train()
    assert len(measured) == 1


@pytest.mark.parametrize("quantized", [False, True])
def test_held_norms_give_the_same_outputs_and_gradients(quantized: bool) -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 64))
    if quantized:
        nn.quantize(model, group_size=32, bits=4)
    model.layers = [DoRALinear.from_base(layer, r=4) for layer in model.layers]
    for layer in model.layers:
        layer.lora_b = 0.1 * mx.random.normal(layer.lora_b.shape)
    x = mx.random.normal((5, 64))
    run = nn.value_and_grad(model, lambda m: mx.sum(mx.square(m(x))))
    value, gradients = run(model)
    norms = RowNorms(model)
    with norms.held():
        held_value, held_gradients = run(model)
        assert "_held_norms" in model.layers[0]
    assert "_held_norms" not in model.layers[0]
    assert value.item() == pytest.approx(held_value.item(), rel=1e-6)
    model.layers[0].lora_b = 3 * model.layers[0].lora_b
    expected = mx.sum(mx.square(model(x))).item()  # by norms of its own
    with norms.held():  # other factors: other norms
        assert run(model)[0].item() == pytest.approx(expected, rel=1e-6)
    model.layers[0].lora_b = model.layers[0].lora_b / 3
    for (name, one), (_, other) in zip(tree_flatten(gradients), tree_flatten(held_gradients), strict=True):
        np.testing.assert_allclose(np.array(one), np.array(other), rtol=1e-5, atol=1e-5, err_msg=name)
