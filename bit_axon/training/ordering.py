"""Row lengths, and which examples of an epoch go together. Everything is a function of its arguments."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bit_axon.training.packing import bins

Indices = NDArray[np.int64]

MAX_BUCKETS = 8
DEFAULT_PACK_LENGTH = 512
_LENGTH_STEP = 16
# Examples of similar length share a batch within a window of so many batches.
_WINDOW_BATCHES = 64
# Another bucket must save at least this share of all tokens, padding included.
_WORTH_A_BUCKET = 0.02


def rounded_up(length: int, max_seq_len: int) -> int:
    """The next multiple of 16, at most `max_seq_len`."""
    return min(-(-max(length, 1) // _LENGTH_STEP) * _LENGTH_STEP, max_seq_len)


def choose_pack_length(lengths: Indices, max_seq_len: int, batch_size: int) -> int:
    """A row length for packing: 512, less where the whole set is small, never below the longest example."""
    share = rounded_up(int(lengths.sum() + len(lengths)) // batch_size, max_seq_len)
    longest = rounded_up(int(lengths.max()), max_seq_len)
    return max(longest, min(DEFAULT_PACK_LENGTH, share))


def choose_buckets(lengths: Indices, max_seq_len: int) -> tuple[int, ...]:
    """Few row lengths that waste little padding, rising; the last holds the longest example.

    Dynamic programming over the multiples of 16 that occur: the cost of k buckets is all tokens with
    padding; one more is taken only while it saves two per cent.

    Args:
        lengths: `(N,)`, of what is padded, at most `max_seq_len`.
        max_seq_len: upper limit.
    """
    steps = -(-np.maximum(lengths, 1) // _LENGTH_STEP) * _LENGTH_STEP
    sizes, counts = np.unique(np.minimum(steps, max_seq_len), return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # best[i]: tokens of the i smallest sizes with the buckets so far; starts[k][i - 1]: where the last begins
    best = np.where(np.arange(len(sizes) + 1) == 0, 0.0, np.inf)
    starts: list[Indices] = []
    totals: list[float] = []
    for _ in range(min(MAX_BUCKETS, len(sizes))):
        held = below[1:, None] - below[None, :-1]
        tokens = np.where(held > 0, best[None, :-1] + held * sizes[:, None], np.inf)
        starts.append(np.argmin(tokens, axis=1))
        best = np.concatenate([[0.0], np.min(tokens, axis=1)])
        totals.append(float(best[-1]))
    enough = [
        k for k in range(1, len(totals)) if totals[k - 1] - totals[k] >= _WORTH_A_BUCKET * totals[k - 1]
    ]
    return _traced(sizes, starts[: 1 + max(enough, default=0)])


def _traced(sizes: Indices, starts: list[Indices]) -> tuple[int, ...]:
    """The buckets that the choices lead to, from the largest down."""
    buckets: list[int] = []
    last = len(sizes)
    for chosen in reversed(starts):
        if last == 0:
            break
        buckets.append(int(sizes[last - 1]))
        last = int(chosen[last - 1])
    return tuple(sorted(buckets))


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


class GroupedOrder:
    """One example per row, rows of similar length together.

    Args:
        lengths: `(N,)`.
        batch_size: rows per batch.
    """

    def __init__(self, lengths: Indices, batch_size: int):
        self._lengths = lengths
        self._batch_size = batch_size
        self.row_count = len(lengths)

    def epoch(self, generator: np.random.Generator | None) -> EpochOrder:
        """Drawn by `generator`; without one, in the order of each batch's first example."""
        count = len(self._lengths)
        drawn = np.arange(count) if generator is None else generator.permutation(count)
        window = np.arange(count) // (self._batch_size * _WINDOW_BATCHES)
        order = drawn[np.lexsort((self._lengths[drawn], window))]
        batches = _in_batches(order, self._batch_size)
        if generator is None:
            first = np.where(batches < 0, count, batches).min(axis=1)
            batches = batches[np.argsort(first, kind="stable")]
        else:
            batches = batches[generator.permutation(len(batches))]
        return EpochOrder(batches, np.arange(count), np.arange(count + 1))

    def longest(self) -> Indices:
        """`(batches,)`; the longest row of each batch of a typical epoch."""
        rows = self.epoch(np.random.default_rng(0)).rows
        return np.where(rows < 0, 0, self._lengths[rows]).max(axis=1)


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
