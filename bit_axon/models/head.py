"""The language head, run on supervised positions only.

Most tokens of a batch are no targets, and logits are the largest arrays of a step: `(N, V)` for N
targets is far less than `(B, T, V)`. While the head is frozen, the gradient of a target's
log-probability with respect to its hidden state depends on that position alone, so it is made in the
forward pass, chunk by chunk, and no logits are kept for the backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

from bit_axon.backend import mx
from bit_axon.training.losses import token_logps

_CHUNK_BYTES = 64 << 20  # of float32 logits at a time
_PROBE_TOKENS = 12
_TOLERANCES = {mx.float32: 1e-5, mx.float16: 5e-3, mx.bfloat16: 4e-2}  # of the largest logit


@dataclass(frozen=True)
class SplitModel:
    """A model as a body that ends in hidden states, and a head that turns them into logits."""

    body: Callable[..., mx.array]  # tokens `(B, T)`, cache -> hidden `(B, T, H)`
    head: Callable[[mx.array], mx.array]  # `(N, H)` -> `(N, V)`
    head_is_frozen: bool


def split_model(model: nn.Module, vocab_size: int) -> SplitModel | None:
    """Body and head of an mlx-lm model, or None where they cannot be told apart.

    Whether the two together are the model is tried out, not assumed: scaled, capped or otherwise
    changed logits give None.
    """
    body = model.get("model")
    if not isinstance(body, nn.Module):
        return None
    layer = model.get("lm_head", body.get("embed_tokens"))
    head = _head_of(layer)
    if head is None:
        return None
    tokens = mx.random.randint(0, vocab_size, (1, _PROBE_TOKENS), key=mx.random.key(0))
    try:
        whole, parts = model(tokens), head(body(tokens))
        if not isinstance(whole, mx.array) or whole.shape != parts.shape:
            return None
        error, size = mx.max(mx.abs(whole - parts)), mx.max(mx.abs(whole))
    except (TypeError, ValueError, AttributeError):
        return None
    if (error > _TOLERANCES[whole.dtype] * size).item():
        return None
    return SplitModel(body, head, head_is_frozen=not tree_flatten(layer.trainable_parameters()))


def _head_of(layer: object) -> Callable[[mx.array], mx.array] | None:
    if isinstance(layer, nn.QuantizedLinear | nn.QuantizedEmbedding) and mx.default_device().type == mx.cpu:
        return _Dequantized(layer)
    if isinstance(layer, nn.Linear | nn.QuantizedLinear):
        return layer
    if isinstance(layer, nn.Embedding | nn.QuantizedEmbedding):
        return layer.as_linear
    return None


@dataclass(frozen=True)
class _Dequantized:
    """A quantized head on a CPU, where MLX's own product is tens of times slower than BLAS."""

    layer: nn.QuantizedLinear | nn.QuantizedEmbedding

    def __call__(self, hidden: mx.array) -> mx.array:
        layer = self.layer
        weight = mx.dequantize(
            layer.weight,
            layer.scales,
            layer.get("biases"),
            group_size=layer.group_size,
            bits=layer.bits,
            mode=layer.mode,
        )
        logits = hidden @ weight.T
        return logits + layer.bias if "bias" in layer else logits


def target_logps(split: SplitModel, hidden: mx.array, targets: mx.array) -> mx.array:
    """log p(target | hidden state).

    Args:
        split: the model's parts.
        hidden: `(N, H)`, of the positions before the targets.
        targets: `(N,)` int32.

    Returns:
        `(N,)` float32.
    """
    if not split.head_is_frozen:
        return token_logps(split.head(hidden), targets)
    size = _chunk_rows(split, hidden)
    pieces = [
        _frozen_logps(split.head, hidden[start : start + size], targets[start : start + size])
        for start in range(0, hidden.shape[0], size)
    ]
    return mx.concatenate(pieces)


def _chunk_rows(split: SplitModel, hidden: mx.array) -> int:
    vocab_size = split.head(hidden[:1]).shape[-1]  # lazy: only the shape is looked at
    return max(_CHUNK_BYTES // (4 * vocab_size), 1)


def _frozen_logps(head: Callable[[mx.array], mx.array], hidden: mx.array, targets: mx.array) -> mx.array:
    @mx.custom_function
    def logps_and_rows(hidden: mx.array) -> tuple[mx.array, mx.array]:
        logits = head(hidden)
        wide = logits.astype(mx.float32)
        top = mx.stop_gradient(mx.max(wide, axis=-1, keepdims=True))
        exponentials = mx.exp(wide - top)  # the only exponential per logit
        total = mx.sum(exponentials, axis=-1, keepdims=True)
        chosen = mx.take_along_axis(wide, targets[:, None], axis=-1)
        logps = (chosen - top - mx.log(total))[:, 0]
        is_target = mx.arange(wide.shape[-1])[None, :] == targets[:, None]
        slope = (is_target.astype(mx.float32) - exponentials / total).astype(logits.dtype)
        _, (rows,) = mx.vjp(head, [hidden], [slope])
        return logps, rows

    @logps_and_rows.vjp
    def _backward(
        hidden: mx.array, cotangents: tuple[mx.array, mx.array], outputs: tuple[mx.array, mx.array]
    ) -> mx.array:
        rows = outputs[1]
        return cotangents[0][:, None].astype(rows.dtype) * rows

    results: Any = logps_and_rows(hidden)
    found: mx.array = results[0]
    return found
