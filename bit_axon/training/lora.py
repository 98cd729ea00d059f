"""LoRA (Hu et al. 2021, arXiv:2106.09685): a trained low-rank update beside a frozen linear layer."""

import mlx.nn as nn

from bit_axon.backend import mx
from bit_axon.quantization.linear import float_linear, weight_product
from bit_axon.training.config import DEFAULT_LORA_TARGETS
from bit_axon.training.dora import DoRALinear
from bit_axon.training.lowrank import LowRankLinear, adapted_weight, add_low_rank, fused_dtype
from bit_axon.training.targets import find_linears, matching_suffix, replace_at, require_matches, walk

__all__ = [
    "DEFAULT_LORA_TARGETS",
    "LORA_EXCLUDED_NAMES",
    "LORA_EXCLUDED_PATHS",
    "LoRALinear",
    "apply_lora_to_model",
    "is_excluded",
]

# The router inside a mixture of experts, and the head (often the embedding itself), are never adapted.
LORA_EXCLUDED_PATHS = ("switch_mlp", "lm_head")
LORA_EXCLUDED_NAMES = ("x_proj", "dt_proj", "gate", "shared_expert_gate")


class LoRALinear(LowRankLinear):
    """`W x + bias + scale * (dropout(x) A) B` with a frozen base layer; `A` and `B` are trained."""

    def __call__(self, x: mx.array) -> mx.array:
        """`(..., input_dims)` to `(..., output_dims)`."""
        y = weight_product(self.linear, x)
        y = add_low_rank(y, self.dropout(x), self.lora_a, self.lora_b, self.scale)
        return y + self.linear.bias if "bias" in self.linear else y

    def fuse(self, dequantize: bool = False) -> nn.Linear:
        """A plain layer with the weight `W + scale * (A B).T` in the base's dtype, and the base's bias.

        Args:
            dequantize: allows a quantized base, whose fused layer is a float one.

        Raises:
            BitAxonError: the base is quantized and `dequantize` is False.
        """
        dtype = fused_dtype(self.linear, dequantize)
        weight = adapted_weight(self.linear, self.lora_a, self.lora_b, self.scale)
        return float_linear(weight.astype(dtype), self.linear.get("bias"))


def is_excluded(path: str) -> bool:
    """Whether a layer is never adapted, whatever the targets say."""
    name = path.rpartition(".")[2]
    return name in LORA_EXCLUDED_NAMES or any(part in path for part in LORA_EXCLUDED_PATHS)


def apply_lora_to_model(
    model: nn.Module,
    rank: int = 8,
    dropout: float = 0.0,
    scale: float = 20.0,
    targets: tuple[str, ...] = DEFAULT_LORA_TARGETS,
    use_dora: bool = False,
) -> list[str]:
    """Freezes the model and wraps its target layers; only the adapters are trainable afterwards.

    Args:
        model: any tree of modules; lists and dicts of modules are walked too.
        rank: rank of every update.
        dropout: of the low-rank path.
        scale: multiplies the update.
        targets: a layer is wrapped when its name ends with one of these and `is_excluded` is False.
        use_dora: wrap with `DoRALinear` instead of `LoRALinear`.

    Returns:
        The dotted paths of the wrapped layers, block by block.

    Raises:
        ConfigError: nothing matches, or the model has trained adapters already. Adapters that were
            never trained (`lora_b` is zero) are replaced.
    """
    _remove_untrained(model)
    found = {path: linear for path, linear in find_linears(model).items() if not is_excluded(path)}
    chosen = {path: linear for path, linear in found.items() if matching_suffix(path, targets)}
    require_matches(chosen, targets, found)
    model.freeze()
    kind = DoRALinear if use_dora else LoRALinear
    replace_at(model, {path: kind.from_base(linear, rank, dropout, scale) for path, linear in chosen.items()})
    return list(chosen)


def _remove_untrained(model: nn.Module) -> None:
    layers = {path: m for path, m in walk(model) if isinstance(m, LoRALinear | DoRALinear)}
    if not any(mx.any(layer.lora_b != 0).item() for layer in layers.values()):
        replace_at(model, {path: layer.linear for path, layer in layers.items()})
