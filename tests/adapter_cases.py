"""Shared by the adapter tests: float64 NumPy references, layers with non-zero adapters, small models."""

from pathlib import Path

import mlx.nn as nn
import numpy as np
from mlx_lm.models import qwen2

from bit_axon.backend import mx
from bit_axon.training.dora import DoRALinear
from bit_axon.training.lora import LoRALinear

PEFT_VALUES = Path(__file__).parent / "reference" / "peft_values.npz"
INPUT_DIMS, OUTPUT_DIMS, RANK, SCALE = 64, 48, 4, 1.75
AFFINE_BITS = (2, 3, 4, 5, 6, 8)
FLOAT_MODES = (("mxfp4", 32, 4), ("nvfp4", 16, 4), ("mxfp8", 32, 8))

Arrays = dict[str, np.ndarray]


def reference(case: Arrays, scale: float) -> Arrays:
    """Forward, merged weight and gradients of LoRA (no `m`) or DoRA, with the norm held constant."""
    w, a, b, x, upstream = (case[name].astype(np.float64) for name in ("w", "a", "b", "x", "upstream"))
    adapted = w + scale * (a @ b).T
    product = x @ adapted.T
    gain = np.ones(len(w))
    result = {}
    if "m" in case:
        norms = np.linalg.norm(adapted, axis=1)
        gain = case["m"] / norms
        result["dm"] = np.sum(upstream * product, axis=(0, 1)) / norms
    inner = upstream * gain
    rows = {name: value.reshape(-1, value.shape[-1]) for name, value in (("x", x), ("inner", inner))}
    return result | {
        "y": gain * product + case.get("bias", np.zeros(len(w))),
        "merged": gain[:, None] * adapted,
        "dx": inner @ adapted,
        "da": scale * rows["x"].T @ (rows["inner"] @ b.T),
        "db": scale * (rows["x"] @ a).T @ rows["inner"],
    }


def random_case(linear: nn.Module, weight: np.ndarray, *, magnitude: bool, seed: int = 3) -> Arrays:
    """A base layer's arrays with non-zero factors, an input and an upstream gradient."""
    rng = np.random.default_rng(seed)
    output_dims, input_dims = weight.shape
    case = {
        "w": weight,
        "a": rng.normal(size=(input_dims, RANK)) / 4,
        "b": rng.normal(size=(RANK, output_dims)) / 4,
        "x": rng.normal(size=(2, 5, input_dims)),
        "upstream": rng.normal(size=(2, 5, output_dims)),
    }
    if magnitude:
        case["m"] = rng.uniform(0.5, 1.5, output_dims)
    if "bias" in linear:
        case["bias"] = np.asarray(linear.bias)
    return {name: np.asarray(value, np.float32).astype(np.float64) for name, value in case.items()}


def float_base(bias: bool = False, seed: int = 1) -> nn.Linear:
    """A linear layer with a non-zero bias."""
    mx.random.seed(seed)
    linear = nn.Linear(INPUT_DIMS, OUTPUT_DIMS, bias=bias)
    if bias:
        linear.bias = mx.random.normal((OUTPUT_DIMS,))
    return linear


def layer_of(case: Arrays, scale: float, kind: type[LoRALinear] | type[DoRALinear]) -> nn.Module:
    """An adapter layer over a float base with the case's values."""
    linear = nn.Linear(*case["w"].shape[::-1], bias="bias" in case)
    linear.weight = mx.array(case["w"], mx.float32)
    if "bias" in case:
        linear.bias = mx.array(case["bias"], mx.float32)
    return with_values(kind.from_base(linear, case["a"].shape[1], scale=scale), case)


def with_values(layer: nn.Module, case: Arrays) -> nn.Module:
    """Sets the factors (and the magnitude) of any layer with these attributes."""
    layer.lora_a, layer.lora_b = mx.array(case["a"], mx.float32), mx.array(case["b"], mx.float32)
    if "m" in case:
        layer.m = mx.array(case["m"], mx.float32)
    return layer


def run_layer(layer: nn.Module, case: Arrays) -> Arrays:
    """Forward and gradients of a layer, also of mlx-lm's, in the reference's names."""
    names = {"lora_a": "da", "lora_b": "db"} | ({"m": "dm"} if "m" in case else {})
    x, upstream = mx.array(case["x"], mx.float32), mx.array(case["upstream"], mx.float32)

    def objective(values: dict[str, mx.array], x: mx.array) -> mx.array:
        layer.update(values)
        return (layer(x) * upstream).sum()

    values = {name: layer[name] for name in names}
    gradients, dx = mx.grad(objective, argnums=(0, 1))(values, x)
    layer.update(values)
    found = {"y": layer(x), "dx": dx} | {short: gradients[name] for name, short in names.items()}
    return {name: np.asarray(value) for name, value in found.items()}


def assert_close(found: Arrays, wanted: Arrays, tolerance: float = 1e-5) -> None:
    """Every array of `found` within `tolerance` of the largest value of the wanted one."""
    for name, value in found.items():
        size = max(1.0, float(np.abs(wanted[name]).max()))
        error = float(np.abs(value - wanted[name]).max()) / size
        assert error < tolerance, f"{name}: {error:.2e}"


def peft_case(name: str) -> tuple[Arrays, Arrays, float]:
    """Inputs and outputs that PEFT recorded, and the scale."""
    with np.load(PEFT_VALUES) as file:
        case = {key.removeprefix(f"{name}_"): file[key] for key in file if key.startswith(name)}
        scale = float(file["scale"])
    outputs = {key: case.pop(key) for key in list(case) if key[0] == "d" or key in ("y", "merged")}
    return case, outputs, scale


def quantized_bases() -> list[tuple[str, nn.QuantizedLinear, np.ndarray]]:
    """A base of every bit width and mode MLX has, with its dequantized weight."""
    options = [("affine", 32, bits) for bits in AFFINE_BITS] + list(FLOAT_MODES)
    bases = []
    for mode, group_size, bits in options:
        linear = float_base(bias=True)
        base = nn.QuantizedLinear.from_linear(linear, group_size, bits, mode=mode)
        weight = mx.dequantize(
            base.weight, base.scales, base.biases, group_size=group_size, bits=bits, mode=mode
        )
        bases.append((f"{mode}-{bits}", base, np.asarray(weight.astype(mx.float32))))
    return bases


def tiny_qwen2(seed: int = 0, **changes: object) -> qwen2.Model:
    """Three blocks of width 64 with random weights."""
    mx.random.seed(seed)
    model = qwen2.Model(qwen2.ModelArgs(**(TINY_QWEN2 | changes)))
    mx.eval(model.parameters())
    return model


TINY_QWEN2: dict[str, object] = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 96,
    "tie_word_embeddings": True,
}


def give_nonzero_adapters(model: nn.Module, seed: int = 5) -> None:
    """Moves every adapter away from its start, as training would."""
    for index, layer in enumerate(m for m in model.modules() if isinstance(m, LoRALinear | DoRALinear)):
        layer.lora_b = mx.random.normal(layer.lora_b.shape, key=mx.random.key(seed + index)) / 16
        if isinstance(layer, DoRALinear):
            layer.m = layer.m * mx.random.uniform(0.8, 1.2, layer.m.shape, key=mx.random.key(index))
    mx.eval(model.parameters())
