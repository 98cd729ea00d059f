"""DoRA (Liu et al. 2024, arXiv:2402.09353): a low-rank direction, and a trained length per weight row."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.nn as nn

from bit_axon.backend import mx
from bit_axon.quantization.linear import (
    float_linear,
    row_squared_norms,
    weight_product,
    weight_products,
)
from bit_axon.training.lowrank import LowRankLinear, adapted_weight, add_low_rank, fused_dtype

# Rounding in ||V||^2 is about 1e-7 of its largest term; below that a row's length is noise.
_RELATIVE_FLOOR = 1e-7
_ABSOLUTE_FLOOR = 1e-30


@dataclass(frozen=True)
class _NormSource:
    """The arrays a stored norm was computed from, to notice when the base has been replaced."""

    weight: mx.array
    scales: mx.array | None
    squared_norms: mx.array


class DoRALinear(LowRankLinear):
    """`m / ||V|| * (W x + scale * (dropout(x) A) B) + bias`, with `V = W + scale * (A B).T`.

    `||V||` is the length of each row of `V`. No gradient flows through it (section 4.3 of the paper).
    It comes from `||W||^2 + 2 s <B, W A> + s^2 (B (A^T A)) . B`, so neither `V` nor a float copy of a
    quantized `W` is built; `||W||^2` is computed once. The bias is not scaled by the magnitude.

    Attributes:
        m: magnitude `(output_dims,)` float32, starts at the row lengths of `W`; trained too.
    """

    def _begin(self) -> None:
        self.measure_base()
        self.m = mx.sqrt(self._base_squared_norms)

    def measure_base(self) -> None:
        """Computes ||W||^2 of the base as it is now. `train()` and `eval()` do so after a replacement."""
        self._base_squared_norms = row_squared_norms(self.linear)
        mx.eval(self._base_squared_norms)  # values, not a graph: a compiled step would repeat a graph
        self._remember_base()

    def _remember_base(self) -> None:
        self._norm_source = _NormSource(
            self.linear.weight, self.linear.get("scales"), self._base_squared_norms
        )

    def _base_was_replaced(self) -> bool:
        """Whether the base's arrays are not those that were measured.

        A compiled function that captures the whole model swaps every array of it, the stored norm too;
        then both still belong together.
        """
        source = self._norm_source
        same = self.linear.weight is source.weight and self.linear.get("scales") is source.scales
        return not same and self._base_squared_norms is source.squared_norms

    def _set_training_mode(self, mode: bool) -> None:
        super()._set_training_mode(mode)
        if self._base_was_replaced():
            self.measure_base()
        else:
            self._remember_base()

    def row_norms(self) -> mx.array:
        """`||V||` `(output_dims,)` float32; no gradient."""
        return mx.stop_gradient(self._norms_from(weight_product(self.linear, self.lora_a.T)))

    def _norms_from(self, weight_a: mx.array) -> mx.array:
        """`||V||` from `(W A)^T (r, output_dims)`."""
        base = row_squared_norms(self.linear) if self._base_was_replaced() else self._base_squared_norms
        a, b = self.lora_a.astype(mx.float32), self.lora_b.astype(mx.float32)
        cross = (b * weight_a.astype(mx.float32)).sum(axis=0)
        update = (b * ((a.T @ a) @ b)).sum(axis=0)
        squared = base + (2.0 * self.scale) * cross + (self.scale * self.scale) * update
        return mx.sqrt(mx.maximum(squared, _RELATIVE_FLOOR * base + _ABSOLUTE_FLOOR))

    def __call__(self, x: mx.array) -> mx.array:
        """`(..., input_dims)` to `(..., output_dims)`."""
        norms = self.get("_held_norms")
        if norms is None:
            a = mx.stop_gradient(self.lora_a).astype(x.dtype)
            y, weight_a = weight_products(self.linear, x, a.T)
            norms = self._norms_from(weight_a)
        else:
            y = weight_product(self.linear, x)
        y = add_low_rank(y, self.dropout(x), self.lora_a, self.lora_b, self.scale)
        y = (self.m / mx.stop_gradient(norms)).astype(y.dtype) * y
        return y + self.linear.bias if "bias" in self.linear else y

    def fuse(self, dequantize: bool = False) -> nn.Linear:
        """A plain layer with the weight `m / ||V|| * V` in the base's dtype, and the base's bias.

        Args:
            dequantize: allows a quantized base, whose fused layer is a float one.

        Raises:
            BitAxonError: the base is quantized and `dequantize` is False.
        """
        dtype = fused_dtype(self.linear, dequantize)
        weight = adapted_weight(self.linear, self.lora_a, self.lora_b, self.scale)
        norms = mx.maximum(mx.linalg.norm(weight, axis=1), _ABSOLUTE_FLOOR)
        return float_linear(((self.m / norms)[:, None] * weight).astype(dtype), self.linear.get("bias"))


class RowNorms:
    """The norms of all DoRA layers of a model, made once per update."""

    def __init__(self, model: nn.Module):
        self._layers = [layer for layer in model.modules() if isinstance(layer, DoRALinear)]
        self._known: list[KnownNorms] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Layers use these norms within the block instead of making their own at every call."""
        before: Sequence[KnownNorms | None] = self._known or [None] * len(self._layers)
        self._known = [known_norms(*pair) for pair in zip(self._layers, before, strict=True)]
        mx.eval([known.norms for known in self._known])
        for layer, known in zip(self._layers, self._known, strict=True):
            layer["_held_norms"] = known.norms
        try:
            yield
        finally:
            for layer in self._layers:
                layer.pop("_held_norms", None)
            # A compiled function puts other objects with the same values in the place of arrays it captures.
            self._known = [
                KnownNorms(layer.lora_a, layer.lora_b, known.norms)
                for layer, known in zip(self._layers, self._known, strict=True)
            ]


@dataclass(frozen=True, eq=False)
class KnownNorms:
    """Row norms, and the factors they belong to: whatever changes factors replaces their arrays."""

    lora_a: mx.array
    lora_b: mx.array
    norms: mx.array


def known_norms(layer: DoRALinear, known: KnownNorms | None) -> KnownNorms:
    """The norms there are, or new ones where the layer's factors are others by now."""
    if known is not None and known.lora_a is layer.lora_a and known.lora_b is layer.lora_b:
        return known
    return KnownNorms(layer.lora_a, layer.lora_b, layer.row_norms())
