"""LoRALinear and apply_lora_to_model: forward, fused weight, gradients, freezing, exclusions."""

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
    tiny_qwen2,
    with_values,
)
from mlx.utils import tree_flatten
from mlx_lm.tuner import lora as peer

from bit_axon.backend import mx
from bit_axon.errors import BitAxonError, ConfigError
from bit_axon.training.dora import DoRALinear
from bit_axon.training.lora import LORA_EXCLUDED_NAMES, LORA_EXCLUDED_PATHS, LoRALinear, apply_lora_to_model
from bit_axon.training.targets import walk


@pytest.mark.parametrize("bias", [False, True])
def test_agrees_with_float64_and_mlx_lm(bias: bool) -> None:
    base = float_base(bias)
    case = random_case(base, np.asarray(base.weight), magnitude=False)
    layer = LoRALinear.from_base(base, RANK, scale=SCALE)
    assert (layer.lora_a.shape, layer.lora_b.shape) == ((INPUT_DIMS, RANK), (RANK, OUTPUT_DIMS))
    with_values(layer, case)
    other = with_values(peer.LoRALinear.from_base(float_base(bias), RANK, scale=SCALE), case)
    wanted = reference(case, SCALE)
    assert_close(run_layer(layer, case), wanted)
    assert_close(run_layer(layer, case), run_layer(other, case))
    fused, peer_fused = layer.fuse(), other.fuse()
    assert_close({"merged": np.asarray(fused.weight)}, wanted)
    assert_close({"merged": np.asarray(fused.weight)}, {"merged": np.asarray(peer_fused.weight)})
    x = mx.array(case["x"], mx.float32)
    assert_close({"y": np.asarray(fused(x))}, wanted)


@pytest.mark.parametrize("name", ["lora_plain", "lora_bias"])
def test_agrees_with_recorded_peft_values(name: str) -> None:
    case, wanted, scale = peft_case(name)
    layer = layer_of(case, scale, LoRALinear)
    assert_close(run_layer(layer, case), wanted)
    assert_close({"merged": np.asarray(layer.fuse().weight)}, wanted)
    assert_close(reference(case, scale), wanted, 1e-12)


@pytest.mark.parametrize(("name", "base", "weight"), quantized_bases(), ids=lambda value: str(value)[:9])
def test_every_quantized_base(name: str, base: nn.QuantizedLinear, weight: np.ndarray) -> None:
    case = random_case(base, weight, magnitude=False)
    layer = LoRALinear.from_base(base, RANK, scale=SCALE)
    assert (layer.lora_a.shape, layer.lora_b.shape) == ((INPUT_DIMS, RANK), (RANK, OUTPUT_DIMS))
    with_values(layer, case)
    other = with_values(peer.LoRALinear.from_base(base, RANK, scale=SCALE), case)
    found = run_layer(layer, case)
    assert_close(found, reference(case, SCALE))
    assert_close(found, run_layer(other, case))
    fused = layer.fuse(dequantize=True)
    assert type(fused) is nn.Linear
    tolerance = 1e-5 if name.startswith("affine") else 1e-2  # the others dequantize to bfloat16
    assert_close({"merged": np.asarray(fused.weight.astype(mx.float32))}, reference(case, SCALE), tolerance)
    with pytest.raises(BitAxonError, match="dequantize=True"):
        layer.fuse()


@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
@pytest.mark.parametrize(("name", "base", "weight"), quantized_bases(), ids=lambda value: str(value)[:9])
def test_the_kernel_path_of_gpus_agrees_too(
    name: str,
    base: nn.QuantizedLinear,
    weight: np.ndarray,
    kind: type[LoRALinear],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bit_axon.quantization.linear._has_fast_kernel", lambda linear: True)
    case = random_case(base, weight, magnitude=kind is DoRALinear)
    layer = with_values(kind.from_base(base, RANK, scale=SCALE), case)
    assert_close(run_layer(layer, case), reference(case, SCALE), 2e-5)


@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
def test_float_copies_of_a_quantized_base_are_not_kept_for_the_backward_pass(kind: type[LoRALinear]) -> None:
    dims, layers = 256, 32
    bases = (nn.QuantizedLinear(dims, dims, bias=False, group_size=64, bits=4) for _ in range(layers))
    model = nn.Sequential(*(kind.from_base(base, 2) for base in bases))
    mx.eval(model.parameters())
    step = mx.compile(mx.grad(lambda x: model(x).sum()))
    x = mx.zeros((2, dims))
    mx.eval(step(x))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(step(x))
    copies = (mx.get_peak_memory() - before) / (4 * dims * dims)
    assert copies < 12  # MLX's CPU queue runs about six operations ahead


def test_starts_at_the_base_and_within_bounds() -> None:
    base = float_base(bias=True)
    layer = LoRALinear.from_base(base, RANK, key=mx.random.key(7))
    again = LoRALinear.from_base(base, RANK, key=mx.random.key(7))
    x = mx.random.normal((3, INPUT_DIMS))
    assert mx.array_equal(layer(x), base(x))
    assert mx.array_equal(layer.lora_a, again.lora_a)
    assert layer.lora_a.shape == (INPUT_DIMS, RANK) and layer.lora_b.shape == (RANK, OUTPUT_DIMS)
    assert layer.lora_a.dtype == layer.lora_b.dtype == mx.float32
    bound = INPUT_DIMS**-0.5
    assert 0.8 * bound < mx.abs(layer.lora_a).max().item() <= bound


@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
def test_constructor_has_a_frozen_base_of_its_own(kind: type[LoRALinear]) -> None:
    layer = kind(INPUT_DIMS, OUTPUT_DIMS, r=3, bias=True)
    assert isinstance(layer, kind)
    assert layer(mx.zeros((2, INPUT_DIMS))).shape == (2, OUTPUT_DIMS)
    names = {name for name, _ in tree_flatten(layer.trainable_parameters())}
    assert names == {"lora_a", "lora_b"} | ({"m"} if kind is DoRALinear else set())


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
def test_sixteen_bit_stays_sixteen_bit(kind: type[LoRALinear], dtype: mx.Dtype) -> None:
    base = float_base(bias=True)
    base.set_dtype(dtype)
    layer = kind.from_base(base, RANK, scale=2.0)
    layer.lora_b = mx.random.normal(layer.lora_b.shape) / 8
    x = mx.random.normal((3, INPUT_DIMS)).astype(dtype)
    fused = layer.fuse()
    assert layer(x).dtype == dtype and fused.weight.dtype == dtype
    difference = mx.abs(layer(x).astype(mx.float32) - fused(x).astype(mx.float32)).max().item()
    assert difference < 0.06
    assert layer.lora_a.dtype == mx.float32


@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
def test_dropout_acts_in_training_only_and_repeats_with_the_seed(kind: type[LoRALinear]) -> None:
    layer = kind.from_base(float_base(), RANK, dropout=0.5, scale=SCALE)
    layer.lora_b = mx.random.normal(layer.lora_b.shape)
    x = mx.random.normal((8, INPUT_DIMS))
    layer.eval()
    without = kind.from_base(layer.linear, RANK, scale=SCALE)
    without.lora_a, without.lora_b = layer.lora_a, layer.lora_b
    assert mx.array_equal(layer(x), layer(x)) and mx.allclose(layer(x), without(x))
    layer.train()
    assert not mx.allclose(layer(x), layer(x))
    compiled = mx.compile(layer, inputs=[mx.random.state], outputs=[mx.random.state])
    for call in (layer, compiled):
        mx.random.seed(11)
        first = call(x)
        mx.eval(first, mx.random.state)
        mx.random.seed(11)
        assert mx.array_equal(first, call(x))


def test_dropout_leaves_the_base_path_alone() -> None:
    layer = LoRALinear.from_base(float_base(), RANK, dropout=0.9)
    x = mx.random.normal((8, INPUT_DIMS))
    assert mx.allclose(layer(x), layer.linear(x))  # B is zero: only the base path is left


@pytest.mark.parametrize("use_dora", [False, True])
def test_apply_freezes_the_base_and_names_the_layers(use_dora: bool) -> None:
    model = tiny_qwen2()
    before = {name: np.asarray(value) for name, value in tree_flatten(model.parameters())}
    paths = apply_lora_to_model(model, rank=2, targets=("q_proj", "down_proj"), use_dora=use_dora)
    assert paths == [
        f"model.layers.{block}.{name}" for block in range(3) for name in ("mlp.down_proj", "self_attn.q_proj")
    ]
    leaves = ("lora_a", "lora_b", "m") if use_dora else ("lora_a", "lora_b")
    trainable = {name for name, _ in tree_flatten(model.trainable_parameters())}
    assert trainable == {f"{path}.{leaf}" for path in paths for leaf in leaves}
    wrapped = dict(model.named_modules())
    for name, value in before.items():
        parent, _, leaf = name.rpartition(".")
        holder = wrapped[parent].linear if parent in paths else wrapped[parent]
        assert np.array_equal(np.asarray(holder[leaf]), value)


def test_apply_walks_lists_and_dicts_and_keeps_numeric_order() -> None:
    model = nn.Module()
    model.blocks = [{"q_proj": nn.Linear(4, 4)} for _ in range(11)]
    model.named = {"0": nn.Linear(4, 4), "v_proj": nn.Linear(4, 4)}
    paths = apply_lora_to_model(model, rank=1)
    assert paths == [f"blocks.{index}.q_proj" for index in range(11)] + ["named.v_proj"]
    assert isinstance(model.blocks[10]["q_proj"], LoRALinear) and isinstance(model.named["0"], nn.Linear)


def test_exclusions_are_the_guides() -> None:
    assert LORA_EXCLUDED_PATHS == ("switch_mlp", "lm_head")
    assert LORA_EXCLUDED_NAMES == ("x_proj", "dt_proj", "gate", "shared_expert_gate")
    model = nn.Module()
    for name in ("x_proj", "dt_proj", "gate", "shared_expert_gate", "lm_head", "gate_proj", "my_x_proj"):
        model[name] = nn.Linear(4, 4)
    model.switch_mlp = {"up_proj": nn.Linear(4, 4)}
    targets = ("proj", "gate", "head")
    assert apply_lora_to_model(model, rank=1, targets=targets) == ["gate_proj", "my_x_proj"]


def test_apply_refuses_what_cannot_work() -> None:
    model = tiny_qwen2()
    with pytest.raises(ConfigError, match=r"'q_prj'.*Did you mean 'q_proj'"):
        apply_lora_to_model(model, targets=("q_prj",))
    untrained = apply_lora_to_model(model, rank=2)
    assert apply_lora_to_model(model, rank=4, use_dora=True) == untrained
    layer = next(m for _, m in walk(model) if "lora_b" in m)
    layer.lora_b = layer.lora_b + 0.1
    with pytest.raises(ConfigError, match="without adapters"):
        apply_lora_to_model(model, rank=2)
