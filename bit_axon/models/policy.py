"""What a method sees of a model: log-probabilities of target tokens, never logits.

This is the seam for speed. Whether the head runs on all positions or on the supervised ones, how packs
are masked and how a prompt is shared is decided here, and no method changes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.nn as nn
import numpy as np

from bit_axon.backend import mx
from bit_axon.models.head import split_model, target_logps
from bit_axon.models.modes import evaluating
from bit_axon.training.batches import Batch
from bit_axon.training.losses import token_logps

_PACKING_TOLERANCE = 1e-3  # relative; float32 shows 1e-6, bfloat16 about 5e-3 of its own rounding


_TARGET_SIZES = (1, 2, 3, 4, 6, 8)  # eighths of all positions: few shapes to compile


class ArrayBatch(NamedTuple):
    """A batch on the device, as a method sees it inside the compiled step.

    Attributes:
        tokens: `(B, T)` int32.
        mask: `(B, T)` float32; 1 where the token is a target.
        segments: `(B, T)` int32; 0 is padding, 1.. the example within the row.
        positions: `(N,)` int32; where the targets are in `tokens[:, 1:]` read row by row, filled up
            to one of a few sizes.
        weights: `(N,)` float32; the mask at these positions, 0 for the filling.
    """

    tokens: mx.array
    mask: mx.array
    segments: mx.array
    positions: mx.array
    weights: mx.array


def array_batch(batch: Batch) -> ArrayBatch:
    """Puts a batch on the device and lists its targets."""
    mask = batch.mask[:, 1:].reshape(-1)
    found = np.flatnonzero(mask)
    sizes = (-(-mask.size * eighths // 8) for eighths in _TARGET_SIZES)
    size = next(size for size in sizes if size >= found.size)
    positions = np.zeros(size, np.int32)
    positions[: found.size] = found
    weights = np.zeros(size, np.float32)
    weights[: found.size] = mask[found]
    arrays = (batch.tokens, batch.mask, batch.segments, positions, weights)
    return ArrayBatch(*(mx.array(array) for array in arrays))


class SegmentCache:
    """Stands in for a layer's key-value cache and keeps the examples of a pack apart.

    Models of mlx-lm ask the first layer's cache for the attention mask; this one answers with a
    block-diagonal causal mask and stores nothing. Exact for rotary positions, which are relative.
    """

    offset = 0

    def __init__(self, segments: mx.array):
        same = segments[:, None, :, None] == segments[:, None, None, :]
        steps = mx.arange(segments.shape[1])
        self._mask = same & (steps[:, None] >= steps[None, :])

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """The mask `(B, 1, N, N)`; a sliding window has no exact packed form here."""
        if window_size is not None:
            raise NotImplementedError("packing with a sliding attention window")
        return self._mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """The layer's own keys and values, unchanged."""
        return keys, values


class Policy:
    """A model as the methods use it.

    Args:
        model: any mlx-lm model, adapters attached.
        packed: whether rows hold several examples that must not see each other.
        vocab_size: ids of the model's vocabulary that may be tried out.
    """

    def __init__(self, model: nn.Module, *, packed: bool, vocab_size: int):
        self.model = model
        self.packed = packed
        with evaluating(model):
            self._split = split_model(model, vocab_size)

    def token_logps(self, batch: ArrayBatch) -> mx.array:
        """`(B, T)` float32: log p(token t | tokens before t of its segment); 0 where it is no target.

        The one place where labels are shifted: the hidden state at t-1 scores the token at t.
        """
        inputs, targets = batch.tokens[:, :-1], batch.tokens[:, 1:]
        if self._split is None:
            logits = _logits_of(self._run(self.model, inputs, batch.segments))
            logps = token_logps(logits, targets) * batch.mask[:, 1:]
        else:
            hidden = self._run(self._split.body, inputs, batch.segments)
            rows = hidden.reshape(-1, hidden.shape[-1])[batch.positions]
            found = target_logps(self._split, rows, targets.reshape(-1)[batch.positions])
            empty = mx.zeros(targets.size, mx.float32)
            logps = empty.at[batch.positions].add(found * batch.weights).reshape(targets.shape)
        return mx.pad(logps, [(0, 0), (1, 0)])

    def _run(self, module: Callable[..., Any], inputs: mx.array, segments: mx.array) -> Any:
        if not self.packed:
            return module(inputs)
        return module(inputs, cache=[SegmentCache(segments[:, :-1])] * len(self.model.layers))


def _logits_of(output: Any) -> mx.array:
    """A model answers with logits, or with logits and caches."""
    return output[0] if isinstance(output, tuple) else output


def packing_is_exact(model: nn.Module, vocab_size: int) -> bool:
    """Whether two packed examples get the logits they get alone; asked once per run, on random tokens."""
    length = 24
    key = mx.random.key(0)
    tokens = mx.random.randint(0, vocab_size, (1, 2 * length), key=key)
    segments = mx.repeat(mx.array([[1, 2]]), length, axis=1)
    with evaluating(model):
        return _is_exact(model, tokens, segments, length)


def _is_exact(model: nn.Module, tokens: mx.array, segments: mx.array, length: int) -> bool:
    alone = mx.concatenate(
        [_logits_of(model(tokens[:, :length])), _logits_of(model(tokens[:, length:]))], axis=1
    )
    try:
        packed = _logits_of(model(tokens, cache=[SegmentCache(segments)] * len(model.layers)))
    except (AttributeError, TypeError, NotImplementedError, ValueError, IndexError):
        return False  # the model's cache is more than keys and values: recurrent state, windows
    error = mx.max(mx.abs(packed.astype(mx.float32) - alone.astype(mx.float32)))
    size = mx.max(mx.abs(alone.astype(mx.float32)))
    tolerance = _PACKING_TOLERANCE if alone.dtype == mx.float32 else 30 * _PACKING_TOLERANCE
    return bool((error <= tolerance * size).item())
