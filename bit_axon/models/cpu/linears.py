"""Linear layers with written-out passes: what is kept between them is chosen here, not by autodiff.

A pass gives a *raw* product and, from it, the layer's output: for DoRA the output is the raw product
times its magnitudes, so keeping the raw product serves both passes. Arrays are `(N, dims)`.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import mlx.nn as nn
from mlx.utils import tree_flatten

from bit_axon.backend import mx
from bit_axon.quantization.linear import AnyLinear, rows_product, transposed_product
from bit_axon.training.dora import DoRALinear, KnownNorms, known_norms
from bit_axon.training.lora import LoRALinear

Gradients: TypeAlias = dict[str, mx.array]  # by the parameter's path in the model


@dataclass(frozen=True, eq=False)
class Kept:
    """What a linear layer keeps for its backward pass.

    Attributes:
        raw: `(N, output_dims)`.
        narrow: `(N, rank)`, the low-rank path's middle, scaled; None without an adapter.
        dropout: `(N, input_dims)` factors, or None.
    """

    raw: mx.array
    narrow: mx.array | None = None
    dropout: mx.array | None = None


class LinearPass(Protocol):
    """The two passes of one layer."""

    names: frozenset[str]  # of the parameters it gives gradients of

    def refresh(self) -> mx.array | None:
        """What changes with an update alone and is out of date; to be evaluated before a pass."""

    def forward(self, x: mx.array) -> Kept:
        """The product."""

    def output(self, raw: mx.array) -> mx.array:
        """The layer's output from its raw product."""

    def backward(self, x: mx.array, kept: Kept, cotangent: mx.array, gradients: Gradients) -> mx.array:
        """The input's gradient; the parameters' own are put into `gradients`."""


class FrozenPass:
    """A layer without trained parameters."""

    names: frozenset[str] = frozenset()

    def __init__(self, linear: AnyLinear):
        self._linear = linear

    def refresh(self) -> None:
        """Nothing changes."""

    def forward(self, x: mx.array) -> Kept:
        """`W x`."""
        return Kept(rows_product(self._linear, x))

    def output(self, raw: mx.array) -> mx.array:
        """With the bias."""
        return raw + self._linear.bias if "bias" in self._linear else raw

    def backward(self, x: mx.array, kept: Kept, cotangent: mx.array, gradients: Gradients) -> mx.array:
        """`W^T dy`."""
        return transposed_product(self._linear, cotangent)


class LoraPass:
    """`W x + narrow B` with `narrow = scale * (dropout(x) A)`.

    Args:
        layer: LoRA or DoRA; of a DoRA layer this is the direction alone.
        path: in the model.
    """

    def __init__(self, layer: LoRALinear | DoRALinear, path: str):
        self._layer, self._path = layer, path
        self.names = frozenset((f"{path}.lora_a", f"{path}.lora_b"))

    def refresh(self) -> None:
        """Nothing is kept between updates."""

    def forward(self, x: mx.array) -> Kept:
        """The sum of base and low-rank path, without the bias."""
        layer = self._layer
        dropout = _dropout_factors(layer.dropout, x)
        narrow = layer.scale * (_dropped(x, dropout) @ layer.lora_a.astype(x.dtype))
        raw = mx.addmm(rows_product(layer.linear, x), narrow, layer.lora_b.astype(x.dtype))
        return Kept(raw, narrow, dropout)

    def output(self, raw: mx.array) -> mx.array:
        """With the bias."""
        linear = self._layer.linear
        return raw + linear.bias if "bias" in linear else raw

    def backward(self, x: mx.array, kept: Kept, cotangent: mx.array, gradients: Gradients) -> mx.array:
        """`W^T dy + A (scale * B dy)`."""
        layer = self._layer
        assert kept.narrow is not None
        narrow = layer.scale * (cotangent @ layer.lora_b.astype(x.dtype).T)
        gradients[f"{self._path}.lora_b"] = (kept.narrow.T @ cotangent).astype(mx.float32)
        gradients[f"{self._path}.lora_a"] = (_dropped(x, kept.dropout).T @ narrow).astype(mx.float32)
        of_base = transposed_product(layer.linear, cotangent)
        a = layer.lora_a.astype(x.dtype).T
        if kept.dropout is None:
            return mx.addmm(of_base, narrow, a)
        return of_base + (narrow @ a) * kept.dropout


class DoraPass:
    """A LoRA pass with its rows scaled by `m / norms`; the norms are made once per update."""

    def __init__(self, layer: DoRALinear, path: str):
        self._layer, self._path = layer, path
        self._direction = LoraPass(layer, path)
        self._trains_magnitude = "m" in layer.trainable_parameters()
        self.names = self._direction.names | ({f"{path}.m"} if self._trains_magnitude else set())
        self._known: KnownNorms | None = None

    def refresh(self) -> mx.array | None:
        """Row norms, where factors are others by now."""
        before = self._known
        self._known = known_norms(self._layer, before)
        return None if self._known is before else self._known.norms

    def _norms(self) -> mx.array:
        self.refresh()
        assert self._known is not None
        return self._known.norms

    def forward(self, x: mx.array) -> Kept:
        """The direction, not yet scaled."""
        return self._direction.forward(x)

    def output(self, raw: mx.array) -> mx.array:
        """Scaled, with the bias."""
        factors = (self._layer.m / self._norms()).astype(raw.dtype)
        return self._direction.output(factors * raw)

    def backward(self, x: mx.array, kept: Kept, cotangent: mx.array, gradients: Gradients) -> mx.array:
        """As the direction's, with the magnitude's gradient `sum(dy * raw) / norms`."""
        norms = self._norms()
        if self._trains_magnitude:
            along = mx.sum((cotangent * kept.raw).astype(mx.float32), axis=0)
            gradients[f"{self._path}.m"] = along / norms
        scaled = cotangent * (self._layer.m / norms).astype(cotangent.dtype)
        return self._direction.backward(x, kept, scaled, gradients)


def linear_pass(layer: nn.Module, path: str) -> LinearPass | None:
    """The passes of a layer, or None where it trains something else than an adapter."""
    if isinstance(layer, DoRALinear):
        return DoraPass(layer, path)
    if isinstance(layer, LoRALinear):
        return LoraPass(layer, path)
    if isinstance(layer, nn.Linear | nn.QuantizedLinear) and not tree_flatten(layer.trainable_parameters()):
        return FrozenPass(layer)
    return None


def _dropout_factors(dropout: nn.Dropout, x: mx.array) -> mx.array | None:
    ones = mx.ones(x.shape, x.dtype)
    factors: mx.array = dropout(ones)
    return None if factors is ones else factors


def _dropped(x: mx.array, factors: mx.array | None) -> mx.array:
    return x if factors is None else x * factors
