"""Sequences of examples: in memory, resampled, and how long their items are."""

from collections.abc import Sequence
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from bit_axon.data.examples import Example, PairExample, PreferenceItem
from bit_axon.data.store import PairStore, TokenStore

Item = TypeVar("Item", Example, PairExample)


class Resampled(Sequence[Item]):
    """Items of a store, some left out, some more than once.

    Attributes:
        items: of the store, all of them.
        indices: `(len,)` int64; which item each is.
        lengths: `(len,)` int64; tokens of each item.
    """

    def __init__(self, items: Sequence[Item], lengths: NDArray[np.int64], indices: NDArray[np.int64]):
        self.items: Sequence[Item] = items
        self.indices = indices
        self.lengths = lengths[indices]

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.items[int(self.indices[index])]


def resampling(kept: Sequence[int], weights: Sequence[float], seed: int) -> NDArray[np.int64]:
    """Indices of a set in which each source's items appear `weight` times.

    Args:
        kept: items of each source, which follow one another.
        weights: of each source; the fraction draws that share of the items, at least one.
        seed: decides which.
    """
    parts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    first = 0
    for number, (count, weight) in enumerate(zip(kept, weights, strict=True)):
        own = first + np.arange(count, dtype=np.int64)
        whole, fraction = divmod(weight, 1.0)
        parts += [own] * int(whole)
        if fraction and count:
            drawn = np.random.default_rng([seed, number]).permutation(count)
            parts.append(np.sort(own[drawn[: max(1, round(fraction * count))]]))
        first += count
    return np.concatenate(parts)


def in_memory(examples: Sequence[Example]) -> TokenStore:
    """The examples in flat arrays."""
    items = [(example.token_ids, example.loss_mask) for example in examples]
    ends = np.cumsum([0, *(len(ids) for ids, _ in items)], dtype=np.int64)
    ids = np.concatenate([np.zeros(0, np.int32), *(ids for ids, _ in items)])
    mask = np.concatenate([np.zeros(0, np.uint8), *(mask for _, mask in items)])
    return TokenStore(ids.astype(np.int32), mask.astype(np.uint8), ends)


def token_store(examples: Sequence[Example]) -> TokenStore | Resampled[Example]:
    """A sequence whose lengths are known; others are read once, into memory."""
    return examples if isinstance(examples, TokenStore | Resampled) else in_memory([*examples])


def pair_store(pairs: Sequence[PairExample] | Sequence[PreferenceItem]) -> PairStore | Resampled[PairExample]:
    """Like `token_store`, for pairs, flat or not."""
    if isinstance(pairs, PairStore | Resampled):
        return pairs
    held = [item.pair if isinstance(item, PreferenceItem) else item for item in pairs]
    return PairStore(in_memory([pair.chosen for pair in held]), in_memory([pair.rejected for pair in held]))
