"""The language head, run on supervised positions only.

Most tokens of a batch are no targets, and logits are the largest arrays of a step: `(N, V)` for N
targets is far less than `(B, T, V)`. While the head is frozen, the gradient of a target's
log-probability with respect to its hidden state depends on that position alone, so it is made in the
forward pass, and the vocabulary is gone through in blocks: no more logits exist than of one block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

from bit_axon.backend import mx
from bit_axon.models.cpu.kernels import exponential, runs_on_cpu
from bit_axon.quantization.linear import AnyWeight, rows_product, selected_rows, transposed_product
from bit_axon.training.losses import token_logps

_BLOCK_BYTES = 64 << 20  # of float32 logits at a time
_CPU_BLOCK_BYTES = 2 << 20  # about what a core's cache holds
_LEAST_BLOCK = 512  # tokens of the vocabulary; below that, rows are divided too
_PROBE_TOKENS = 12
_TOLERANCES = {mx.float32: 1e-5, mx.float16: 5e-3, mx.bfloat16: 4e-2}  # of the largest logit


@dataclass(frozen=True)
class Head:
    """A linear layer, or an embedding used as one."""

    layer: AnyWeight
    vocab_size: int
    is_frozen: bool

    def logits(self, hidden: mx.array, start: int = 0, stop: int | None = None) -> mx.array:
        """`(..., H)` to `(..., V)`, or to the tokens `start:stop`; only the hidden states get a gradient."""
        logits = rows_product(self.layer, hidden, start, stop)
        return logits + self.layer.bias[start:stop] if "bias" in self.layer else logits

    def __call__(self, hidden: mx.array) -> mx.array:
        """`(..., H)` to `(..., V)`; the layer's own weight gets a gradient too."""
        if self.is_frozen:
            return self.logits(hidden)
        whole: mx.array = (
            self.layer.as_linear(hidden)
            if "bias" not in self.layer and isinstance(self.layer, nn.Embedding | nn.QuantizedEmbedding)
            else self.layer(hidden)
        )
        return whole


@dataclass(frozen=True)
class SplitModel:
    """A model as a body that ends in hidden states, and a head that turns them into logits."""

    body: Callable[..., mx.array]  # tokens `(B, T)`, cache -> hidden `(B, T, H)`
    head: Head


def split_model(model: nn.Module, vocab_size: int) -> SplitModel | None:
    """Body and head of an mlx-lm model, or None where they cannot be told apart.

    Whether the two together are the model is tried out, not assumed: scaled, capped or otherwise
    changed logits give None.
    """
    body = model.get("model")
    if not isinstance(body, nn.Module):
        return None
    head = _head_of(model.get("lm_head", body.get("embed_tokens")))
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
    return SplitModel(body, head)


def _head_of(layer: object) -> Head | None:
    kinds = nn.Linear | nn.QuantizedLinear | nn.Embedding | nn.QuantizedEmbedding
    if not isinstance(layer, kinds):
        return None
    return Head(layer, layer.weight.shape[0], is_frozen=not tree_flatten(layer.trainable_parameters()))


def target_logps(head: Head, hidden: mx.array, targets: mx.array) -> mx.array:
    """log p(target | hidden state).

    Args:
        head: of the model.
        hidden: `(N, H)`, of the positions before the targets.
        targets: `(N,)` int32.

    Returns:
        `(N,)` float32.
    """
    if not head.is_frozen:
        return token_logps(head(hidden), targets)

    @mx.custom_function
    def both(hidden: mx.array) -> tuple[mx.array, mx.array]:
        return logps_and_slopes(head, hidden, targets)

    @both.vjp
    def both_vjp(
        hidden: mx.array, cotangents: tuple[mx.array, mx.array], outputs: tuple[mx.array, mx.array]
    ) -> mx.array:
        slopes = outputs[1]
        return cotangents[0][:, None].astype(slopes.dtype) * slopes

    results: Any = both(hidden)
    found: mx.array = results[0]
    return found


def logps_and_slopes(head: Head, hidden: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """As `target_logps` for a frozen head, and the gradient of each value by its hidden state, `(N, H)`."""
    rows = max(_block_bytes() // (4 * _LEAST_BLOCK), 1)
    pieces = [
        _blockwise(head, hidden[start : start + rows], targets[start : start + rows])
        for start in range(0, hidden.shape[0], rows)
    ]
    if len(pieces) == 1:
        return pieces[0]
    return mx.concatenate([logps for logps, _ in pieces]), mx.concatenate([slopes for _, slopes in pieces])


def _block_bytes() -> int:
    return _CPU_BLOCK_BYTES if runs_on_cpu() else _BLOCK_BYTES


def _blockwise(head: Head, hidden: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """Log-probabilities and their gradients, `W[target] - sum_v p_v W[v]`, `(N,)` and `(N, H)`.

    As in an online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867), sums so far are scaled down
    when a block holds a larger logit.
    """
    count = max(hidden.shape[0], 1)
    width = max(_block_bytes() // (4 * count), 1)
    top = mx.full((count, 1), -mx.inf)
    total, chosen = mx.zeros((count, 1)), mx.zeros((count,))
    mean = mx.zeros(hidden.shape)
    for start in range(0, head.vocab_size, width):
        stop = min(start + width, head.vocab_size)
        logits = head.logits(hidden, start, stop)
        wide = logits.astype(mx.float32)
        before, top = top, mx.maximum(top, mx.max(wide, axis=-1, keepdims=True))
        weights = exponential(wide - top)  # the only exponential per logit
        shrink = mx.exp(before - top)
        total = total * shrink + mx.sum(weights, axis=-1, keepdims=True)
        mean = mean * shrink + transposed_product(head.layer, weights.astype(logits.dtype), start, stop)
        chosen = chosen + _within(wide, targets, start, stop)
    rows = selected_rows(head.layer, targets).astype(mx.float32) - mean / total
    return chosen - (top + mx.log(total))[:, 0], rows.astype(hidden.dtype)


def _within(logits: mx.array, targets: mx.array, start: int, stop: int) -> mx.array:
    """The targets' logits `(N,)` of a block; 0 for targets of other blocks."""
    columns = mx.clip(targets - start, 0, stop - start - 1)
    found = mx.take_along_axis(logits, columns[:, None], axis=-1)[:, 0]
    return mx.where((targets >= start) & (targets < stop), found, 0.0)
