"""A batch as rows of equal length: the way models run where steps are compiled, or are not recognised."""

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.nn as nn
import numpy as np

from bit_axon.backend import mx
from bit_axon.models.inputs import ArrayBatch, padded_to, target_places
from bit_axon.models.modes import evaluating
from bit_axon.training.batches import Batch

_PACKING_TOLERANCE = 1e-3  # relative; float32 shows 1e-6, bfloat16 about 5e-3 of its own rounding


class PaddedInputs(NamedTuple):
    """Tokens `(B, T - 1)` int32 and their segments: 0 is padding, 1.. the example within the row."""

    tokens: mx.array
    segments: mx.array


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


class PaddedRunner:
    """Runs any body, or a whole model whose head cannot be told apart.

    Args:
        body: tokens `(B, T)`, cache -> `(B, T, H)`.
        blocks: number of blocks.
        packed: whether rows hold several examples that must not see each other.
    """

    def __init__(self, body: Callable[..., Any], blocks: int, *, packed: bool):
        self._body, self._blocks, self._packed = body, blocks, packed

    def place(self, batch: Batch) -> ArrayBatch:
        """The batch, its targets filled up to one of a few sizes."""
        places, size = target_places(batch), batch.target_slots
        tokens, weights = (array[:, 1:].reshape(-1)[places] for array in (batch.tokens, batch.mask))
        return ArrayBatch(
            mask=mx.array(batch.mask),
            targets=mx.array(padded_to(tokens, size)),
            places=mx.array(padded_to(places.astype(np.int32), size)),
            weights=mx.array(padded_to(weights, size)),
            inputs=PaddedInputs(mx.array(batch.tokens[:, :-1]), mx.array(batch.segments[:, :-1])),
        )

    def rows(self, arrays: ArrayBatch) -> mx.array:
        """`(N, H)`; the hidden state before each target."""
        tokens, segments = arrays.inputs
        hidden = logits_of(self._run(tokens, segments))
        return hidden.reshape(-1, hidden.shape[-1])[arrays.places]

    def _run(self, tokens: mx.array, segments: mx.array) -> Any:
        if not self._packed:
            return self._body(tokens)
        return self._body(tokens, cache=[SegmentCache(segments)] * self._blocks)


def logits_of(output: Any) -> mx.array:
    """A model answers with an array, or with an array and caches."""
    found: mx.array = output[0] if isinstance(output, tuple) else output
    return found


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
        [logits_of(model(tokens[:, :length])), logits_of(model(tokens[:, length:]))], axis=1
    )
    try:
        packed = logits_of(model(tokens, cache=[SegmentCache(segments)] * len(model.layers)))
    except (AttributeError, TypeError, NotImplementedError, ValueError, IndexError):
        return False  # the model's cache is more than keys and values: recurrent state, windows
    error = mx.max(mx.abs(packed.astype(mx.float32) - alone.astype(mx.float32)))
    size = mx.max(mx.abs(alone.astype(mx.float32)))
    tolerance = _PACKING_TOLERANCE if alone.dtype == mx.float32 else 30 * _PACKING_TOLERANCE
    return bool((error <= tolerance * size).item())
