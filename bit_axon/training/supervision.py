"""How many targets each example has, and where they begin, counted once over a whole store."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bit_axon.data.examples import Example, PairExample
from bit_axon.data.sequences import Resampled
from bit_axon.data.store import PairStore, TokenStore

Indices = NDArray[np.int64]

_CHUNK_TOKENS = 1 << 20  # looked at together, so that a store is never held in memory as a whole


class Supervision(NamedTuple):
    """Of each example, `(len,)` int64 each.

    Attributes:
        lengths: tokens, after the cut.
        targets: of these, those that are trained on; never the first.
    """

    lengths: Indices
    targets: Indices


def token_supervision(store: TokenStore | Resampled[Example], max_seq_len: int) -> Supervision:
    """Lengths and targets of examples cut to `max_seq_len` tokens."""
    if isinstance(store, Resampled):
        assert isinstance(store.items, TokenStore)
        whole = token_supervision(store.items, max_seq_len)
        return Supervision(whole.lengths[store.indices], whole.targets[store.indices])
    lengths = np.minimum(store.lengths, max_seq_len)
    targets = np.zeros_like(lengths)
    for part, starts, sums in _chunks(store):
        ends = np.maximum(starts + lengths[part] - 1, 0)
        targets[part] = np.where(lengths[part] > 0, sums[ends] - sums[np.minimum(starts, len(sums) - 1)], 0)
    return Supervision(lengths, targets)


def first_targets(store: TokenStore) -> Indices:
    """`(len,)`; the index of each example's first target; some later index where there is none."""
    firsts = np.zeros(len(store), np.int64)
    for part, starts, sums in _chunks(store):
        at_start = sums[np.minimum(starts, len(sums) - 1)]
        firsts[part] = np.searchsorted(sums, at_start, side="right") - starts
    return firsts


def needs_of_pairs(store: PairStore | Resampled[PairExample], max_seq_len: int) -> Indices:
    """`(N, 3)`: tokens of the longer side but the last, those of them behind the prompt, targets of both.

    A pair shares what stands before its first target, but for the token that predicts it. The last token
    of a row is a target alone.
    """
    if isinstance(store, Resampled):
        assert isinstance(store.items, PairStore)
        return needs_of_pairs(store.items, max_seq_len)[store.indices]
    chosen, rejected = (token_supervision(side, max_seq_len) for side in (store.chosen, store.rejected))
    firsts = np.minimum(first_targets(store.chosen), first_targets(store.rejected))
    inputs = np.maximum(np.maximum(chosen.lengths, rejected.lengths) - 1, 1)
    responses = np.clip(inputs - np.maximum(firsts - 1, 0), 1, inputs)
    return np.stack([inputs, responses, chosen.targets + rejected.targets], axis=1)


def sum_of_largest(targets: Indices, count: int) -> int:
    """As many targets as `count` examples can have together, at least one."""
    first = max(len(targets) - count, 0)
    return max(int(np.partition(targets, first)[first:].sum()), 1)


def _chunks(store: TokenStore) -> Iterator[tuple[slice, Indices, NDArray[np.int32]]]:
    """Some examples, where they start in a chunk of tokens, and the sums of its mask up to each token."""
    edges = np.arange(0, int(store.offsets[-1]) + _CHUNK_TOKENS, _CHUNK_TOKENS)
    cuts = np.unique(np.minimum(np.searchsorted(store.offsets, edges), len(store)))
    for first, last in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        begin, end = int(store.offsets[first]), int(store.offsets[last])
        if begin < end:
            sums = np.cumsum(store.mask[begin:end] != 0, dtype=np.int32)
            yield slice(first, last), store.offsets[first:last] - begin, sums
