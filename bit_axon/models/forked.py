"""Rows that begin with the same prompt, of which the prompt runs once.

The rows of a group (the two sides of a preference pair) attend to the same keys and values of their
prompt: `P` prompts run as `P` rows, and what they leave behind stands before the `G * P` responses.
Models of mlx-lm do this through their key-value cache, unpatched, and autodiff takes the gradients back
the same way. Lengths are data, not shapes: one compiled function serves all batches of one shape.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from bit_axon.backend import mx
from bit_axon.models.inputs import ArrayBatch, Runner, padded_to, shared_length, target_places
from bit_axon.models.modes import evaluating
from bit_axon.models.padded import logits_of
from bit_axon.training.batches import Batch

_SLOT_STEP: Final = 16  # tokens; sizes that are not planned are multiples of it
# Prompts of different lengths, one empty. No two sizes are equal, so that wrong broadcasting cannot fit.
_PROBE_PROMPTS: Final = (9, 0, 4)
_PROBE_GROUP: Final = 2
_PROBE_RESPONSE: Final = 7
_TOLERANCE: Final = 1e-3  # relative; float32 shows 1e-6, bfloat16 about 5e-3 of its own rounding
_OTHER_CACHE: Final = (AttributeError, TypeError, NotImplementedError, ValueError, IndexError)

Body = Callable[..., Any]  # tokens `(B, T)`, cache -> `(B, T, H)`


class ForkedInputs(NamedTuple):
    """What the model runs over: `P` prompts in `S` slots, `G * P` responses in `R` slots.

    Attributes:
        prompts: `(P, S)` int32; what the rows of each group have in common, zeros behind it.
        responses: `(G * P, R)` int32; what follows in each row, zeros behind that.
        shared: `(P,)` int32; tokens of each prompt, may be 0.
        rows: `(N,)` int32; the position before each target, in `responses` read row by row.
    """

    prompts: mx.array
    responses: mx.array
    shared: mx.array
    rows: mx.array


class PromptCache:
    """Stands in for a layer's key-value cache and keeps what the layer makes of the prompts."""

    offset = 0

    def __init__(self) -> None:
        self._kept: tuple[mx.array, mx.array] | None = None

    def make_mask(
        self, N: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """A causal mask: what fills up a prompt stands behind it, where the prompt does not see it."""
        _refuse_window(window_size)
        if return_array:
            steps = mx.arange(N)
            return steps[:, None] >= steps
        return None if N == 1 else "causal"

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """The layer's own keys and values `(P, heads, S, D)`, unchanged."""
        self._kept = keys, values
        return keys, values

    def forked(self, group_size: int) -> tuple[mx.array, mx.array]:
        """Keys and values of all rows' prompts, `(G * P, heads, S, D)`; row `g * P + p` has prompt p.

        Raises:
            ValueError: the layer left none.
        """
        if self._kept is None:
            raise ValueError("a layer that asked its cache for no keys and values")
        keys, values = (mx.concatenate([kept] * group_size) for kept in self._kept)
        return keys, values


class ForkedCache:
    """Stands in for the key-value cache of a layer that has seen each row's prompt.

    Args:
        prompts: keys and values `(B, heads, S, D)`.
        starts: `(B,)` int32; tokens of each row's prompt, the position at which its response begins.
        mask: `(B, 1, R, S + R)` bool.
    """

    def __init__(self, prompts: tuple[mx.array, mx.array], starts: mx.array, mask: mx.array):
        self.offset = starts
        self._prompts, self._mask = prompts, mask

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """The mask `(B, 1, N, S + N)`."""
        _refuse_window(window_size)
        return self._mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """The prompts' keys and values with the layer's own behind them, `(B, heads, S + R, D)`."""
        own = (keys, values)
        keys, values = (mx.concatenate(list(both), axis=2) for both in zip(self._prompts, own, strict=True))
        return keys, values


def _refuse_window(window_size: int | None) -> None:
    """Slots are no positions, so a window cannot be told from them."""
    if window_size is not None:
        raise NotImplementedError("shared prompts with a sliding attention window")


class ForkedRunner:
    """Runs the prompts of groups once; all other batches, and those that gain nothing, as `plain` does.

    Args:
        body: tokens `(B, T)`, cache -> `(B, T, H)`, of a model for which `forking_is_exact`.
        blocks: number of blocks.
        plain: runs rows on their own.
    """

    def __init__(self, body: Body, blocks: int, plain: Runner):
        self._body, self._blocks, self._plain = body, blocks, plain

    def place(self, batch: Batch) -> ArrayBatch:
        """The batch, its sizes those that are planned, else multiples of 16."""
        arrays = self._plain.place(batch)
        if batch.group_size == 1:
            return arrays
        inputs = _inputs(batch)
        saves = inputs.prompts.size + inputs.responses.size < batch.tokens[:, 1:].size
        return arrays._replace(inputs=inputs) if saves else arrays

    def rows(self, arrays: ArrayBatch) -> mx.array:
        """`(N, H)`; the hidden state before each target."""
        if not shares_prompts(arrays):
            return self._plain.rows(arrays)
        prompts, responses, shared, rows = arrays.inputs
        hidden = forked_hidden(self._body, self._blocks, prompts, responses, shared)
        return hidden.reshape(-1, hidden.shape[-1])[rows]


def shares_prompts(arrays: ArrayBatch) -> bool:
    """Whether prompts are apart. Asked of the fields: `mx.compile` hands on a tuple of no type."""
    return len(arrays.inputs) == len(ForkedInputs._fields)


def forked_hidden(
    body: Body, blocks: int, prompts: mx.array, responses: mx.array, shared: mx.array
) -> mx.array:
    """The body's output `(G * P, R, H)` on the responses, arguments as in `ForkedInputs`.

    Of the prompts' last block only keys and values are asked for, so no more of it is computed.
    """
    group_size = responses.shape[0] // prompts.shape[0]
    caches = [PromptCache() for _ in range(blocks)]
    body(prompts, cache=caches)
    starts = mx.concatenate([shared] * group_size)
    mask = _visible(starts, prompts.shape[1], responses.shape[1])
    return logits_of(
        body(responses, cache=[ForkedCache(cache.forked(group_size), starts, mask) for cache in caches])
    )


def _visible(starts: mx.array, prompt_slots: int, response_slots: int) -> mx.array:
    """`(B, 1, R, S + R)`: a row's prompt without what fills it up, and the response as far as it goes."""
    slots = mx.arange(prompt_slots + response_slots)
    own = (slots >= prompt_slots) & (slots <= prompt_slots + mx.arange(response_slots)[:, None])
    return (slots < starts[:, None])[:, None, None] | own


def _inputs(batch: Batch) -> ForkedInputs:
    """Prompts of all groups and what follows them, each up to its last target, whose own place is not run.

    A prompt that is longer than its planned size goes on as a response.
    """
    count = len(batch.tokens) // batch.group_size
    groups = [range(first, len(batch.tokens), count) for first in range(count)]
    shared = np.array([shared_length(batch, group) for group in groups], np.int32)
    if batch.response_slots:
        shared = np.minimum(shared, batch.prompt_slots).astype(np.int32)
    starts = np.tile(shared, batch.group_size)
    last = np.max((batch.mask > 0) * np.arange(batch.mask.shape[1]), axis=1)
    lengths = np.maximum(last - starts, 0)
    prompt_slots = _slots(batch.prompt_slots, int(shared.max()))
    response_slots = _slots(batch.response_slots, int(lengths.max()))
    row, column = np.divmod(target_places(batch), batch.tokens.shape[1] - 1)
    rows = row * response_slots + column - starts[row]
    prompts = _windows(batch.tokens[:count], np.zeros_like(shared), shared, prompt_slots)
    responses = _windows(batch.tokens, starts, lengths, response_slots)
    filled = padded_to(rows.astype(np.int32), batch.target_slots)
    return ForkedInputs(mx.array(prompts), mx.array(responses), mx.array(shared), mx.array(filled))


def _slots(planned: int, needed: int) -> int:
    """The planned size where it is enough, else the next multiple of 16."""
    return planned if planned >= max(needed, 1) else -(-max(needed, 1) // _SLOT_STEP) * _SLOT_STEP


def _windows(
    tokens: NDArray[np.int32], starts: NDArray[Any], lengths: NDArray[Any], width: int
) -> NDArray[np.int32]:
    """`(B, width)`: of row b, `lengths[b]` tokens from column `starts[b]` on, zeros behind them."""
    steps = np.arange(width)
    columns = np.minimum(starts[:, None] + steps, tokens.shape[1] - 1)
    found = np.take_along_axis(tokens, columns, axis=1)
    return np.where(steps < lengths[:, None], found, 0).astype(np.int32)


def forking_is_exact(model: nn.Module, vocab_size: int) -> bool:
    """Whether rows that share prompts get what they get alone; asked once per run, on random tokens.

    Args:
        model: or its body; anything that has `layers` and takes tokens and caches.
        vocab_size: ids that may be tried out.
    """
    count, length = len(_PROBE_PROMPTS), max(_PROBE_PROMPTS) + 1
    size = (_PROBE_GROUP * count, length + _PROBE_RESPONSE)
    tokens = mx.random.randint(0, vocab_size, size, key=mx.random.key(3))
    prompts, responses = tokens[:count, :length], tokens[:, length:]
    with evaluating(model):
        try:
            found = forked_hidden(model, len(model.layers), prompts, responses, mx.array(_PROBE_PROMPTS))
        except _OTHER_CACHE:
            return False  # the model's cache is more than keys and values: recurrent state, windows
        return _agree(found, _alone(model, prompts, responses))


def _alone(model: nn.Module, prompts: mx.array, responses: mx.array) -> mx.array:
    """`(G * P, R, H)`; the model's own output on the responses, each row behind its prompt."""
    found = []
    for row, response in enumerate(responses):
        length = _PROBE_PROMPTS[row % len(_PROBE_PROMPTS)]
        prompt = prompts[row % len(_PROBE_PROMPTS), :length]
        found.append(logits_of(model(mx.concatenate([prompt, response])[None]))[0, length:])
    return mx.stack(found)


def _agree(found: mx.array, expected: mx.array) -> bool:
    if found.shape != expected.shape:
        return False
    error = mx.max(mx.abs(found.astype(mx.float32) - expected.astype(mx.float32)))
    size = mx.max(mx.abs(expected.astype(mx.float32)))
    tolerance = _TOLERANCE if expected.dtype == mx.float32 else 30 * _TOLERANCE
    return bool((error <= tolerance * size).item())
