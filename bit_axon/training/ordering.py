"""Which examples of an epoch go together. Everything is a function of its arguments."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bit_axon.training.packing import bins
from bit_axon.training.shapes import rounded_up

Indices = NDArray[np.int64]

DEFAULT_PACK_LENGTH = 512
# Examples of similar length share a batch within a window of so many batches.
_WINDOW_BATCHES = 64


def choose_pack_length(lengths: Indices, max_seq_len: int, batch_size: int) -> int:
    """A row length for packing: 512, less where the whole set is small, never below the longest example."""
    share = rounded_up(int(lengths.sum() + len(lengths)) // batch_size, max_seq_len)
    longest = rounded_up(int(lengths.max()), max_seq_len)
    return max(longest, min(DEFAULT_PACK_LENGTH, share))


@dataclass(frozen=True, eq=False)
class EpochOrder:
    """One epoch.

    Attributes:
        rows: `(batches, batch_size)`; row numbers, -1 where the last batch has none.
        members: `(N,)`; example numbers, row after row.
        offsets: `(rows + 1,)`; where each row starts in `members`.
    """

    rows: Indices
    members: Indices
    offsets: Indices

    def batch(self, index: int) -> list[Indices]:
        """The examples of each row of a batch."""
        return [
            self.members[self.offsets[r] : self.offsets[r + 1]] for r in self.rows[index].tolist() if r >= 0
        ]

    def sums(self, values: Indices) -> Indices:
        """`(batches,)`; the sum of `values (N,)` over the examples of each batch."""
        return self._by_row(np.add, values).sum(axis=1)

    def largest(self, values: Indices) -> Indices:
        """`(batches,)`; the largest of `values (N,)` among the examples of each batch."""
        return self._by_row(np.maximum, values).max(axis=1)

    def _by_row(self, combine: np.ufunc, values: Indices) -> Indices:
        found = combine.reduceat(values[self.members], self.offsets[:-1])
        return np.where(self.rows < 0, 0, found[self.rows])


class Order(Protocol):
    """Epochs of the same examples."""

    row_count: int

    def epoch(self, generator: np.random.Generator | None) -> EpochOrder:
        """Drawn by `generator`; without one, near to the order of the examples."""


class GroupedOrder:
    """One example per row, similar rows together.

    Args:
        keys: `(N,)` each; examples of one first key are ordered by the second, and so on.
        batch_size: rows per batch.
    """

    def __init__(self, keys: Sequence[Indices], batch_size: int):
        self._keys = keys
        self._batch_size = batch_size
        self.row_count = len(keys[0])

    def epoch(self, generator: np.random.Generator | None) -> EpochOrder:
        """Drawn by `generator`; without one, in the order of each batch's first example."""
        count = self.row_count
        drawn = np.arange(count) if generator is None else generator.permutation(count)
        window = np.arange(count) // (self._batch_size * _WINDOW_BATCHES)
        order = drawn[np.lexsort((*(key[drawn] for key in reversed(self._keys)), window))]
        batches = _in_batches(order, self._batch_size)
        if generator is None:
            first = np.where(batches < 0, count, batches).min(axis=1)
            batches = batches[np.argsort(first, kind="stable")]
        else:
            batches = batches[generator.permutation(len(batches))]
        return EpochOrder(batches, np.arange(count), np.arange(count + 1))


class PackedOrder:
    """Several examples per row. Rows hold the same lengths in every epoch, but other examples.

    Args:
        lengths: `(N,)`.
        batch_size: rows per batch.
        row_length: tokens per row.
    """

    def __init__(self, lengths: Indices, batch_size: int, row_length: int):
        packs = bins(lengths, row_length)
        sizes = np.array([size for pack in packs for size in pack], np.int64)
        self._lengths = lengths
        self._batch_size = batch_size
        self._places = np.argsort(sizes, kind="stable")
        self._offsets = np.cumsum([0, *(len(pack) for pack in packs)], dtype=np.int64)
        self.row_count = len(packs)

    def epoch(self, generator: np.random.Generator | None) -> EpochOrder:
        """Drawn by `generator`; without one, in the order of each row's first example."""
        count = len(self._lengths)
        drawn = np.arange(count) if generator is None else generator.permutation(count)
        members = np.empty(count, np.int64)
        members[self._places] = drawn[np.argsort(self._lengths[drawn], kind="stable")]
        if generator is None:
            rows = np.argsort(np.minimum.reduceat(members, self._offsets[:-1]), kind="stable")
        else:
            rows = generator.permutation(self.row_count)
        return EpochOrder(_in_batches(rows, self._batch_size), members, self._offsets)


def _in_batches(rows: Indices, batch_size: int) -> Indices:
    missing = -len(rows) % batch_size
    return np.concatenate([rows, np.full(missing, -1)]).astype(np.int64).reshape(-1, batch_size)
