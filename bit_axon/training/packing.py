"""Several short examples in one row, kept apart by segment numbers.

    tokens    a1 a2 a3 EOS b1 b2 EOS c1 c2 c3 c4 PAD
    mask       0  1  1   0  0  1   0  0  0  1  1   0
    segments   1  1  1   1  2  2   2  3  3  3  3   0

The end token between two examples belongs to the first one's segment and is never a target. An example
that fits a row is never split.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bit_axon.data.examples import Example
from bit_axon.errors import ConfigError, problem


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """One packed row.

    Attributes:
        token_ids: `(T,)` int32.
        loss_mask: `(T,)` uint8; 1 where the token is a target.
        segment_ids: `(T,)` int32; 0 is padding, 1.. the example within the row.
    """

    token_ids: NDArray[np.int32]
    loss_mask: NDArray[np.uint8]
    segment_ids: NDArray[np.int32]


def packed_length(lengths: Sequence[int]) -> int:
    """Tokens that examples take together, separators included."""
    return sum(lengths) + max(len(lengths) - 1, 0)


def join(examples: Sequence[Example], length: int, eos_token_id: int, pad_token_id: int) -> PackedBatch:
    """One row of `length` tokens from examples that fit together; a single longer one is cut.

    Raises:
        ValueError: the examples do not fit.
    """
    row = PackedBatch(
        np.full(length, pad_token_id, np.int32), np.zeros(length, np.uint8), np.zeros(length, np.int32)
    )
    at = 0
    for number, (token_ids, loss_mask) in enumerate(examples, start=1):
        if number > 1:
            row.token_ids[at] = eos_token_id
            row.segment_ids[at] = number - 1
            at += 1
        ids, mask = (token_ids[:length], loss_mask[:length]) if len(examples) == 1 else (token_ids, loss_mask)
        row.token_ids[at : at + len(ids)] = ids
        row.loss_mask[at : at + len(ids)] = mask
        row.segment_ids[at : at + len(ids)] = number
        at += len(ids)
    return row


class SequencePacker:
    """Packs a stream of examples in their order: a row is full when the next example does not fit.

    Args:
        max_seq_len: length of every row.
        eos_token_id: stands between examples.
        pad_token_id: fills the rest of a row; `eos_token_id` by default. Padding is never a target.

    Raises:
        ConfigError: `max_seq_len` is below 1.
    """

    def __init__(self, max_seq_len: int, eos_token_id: int, pad_token_id: int | None = None):
        if max_seq_len < 1:
            raise ConfigError(problem("max_seq_len of at least 1", str(max_seq_len), "Raise max_seq_len."))
        self._length = max_seq_len
        self._eos_token_id = eos_token_id
        self._pad_token_id = eos_token_id if pad_token_id is None else pad_token_id
        self._held: list[Example] = []
        self._used = 0

    def add_example(self, token_ids: ArrayLike, loss_mask: ArrayLike) -> list[PackedBatch]:
        """Adds an example, cut to `max_seq_len`; returns the rows that this completes: none, one or two.

        Raises:
            ValueError: ids and mask are not of one length.
        """
        example = self._checked(token_ids, loss_mask)
        size = len(example.token_ids)
        if size == 0:
            return []
        done: list[PackedBatch] = []
        if self._held and self._used + 1 + size > self._length:
            done.append(self._row())
        self._used += size + (1 if self._held else 0)
        self._held.append(example)
        if self._used + 2 > self._length:  # no room for a separator and one more token
            done.append(self._row())
        return done

    def flush(self) -> PackedBatch | None:
        """The row begun, padded; None if there is none. The packer is empty afterwards."""
        return self._row() if self._held else None

    def _row(self) -> PackedBatch:
        row = join(self._held, self._length, self._eos_token_id, self._pad_token_id)
        self._held = []
        self._used = 0
        return row

    def _checked(self, token_ids: ArrayLike, loss_mask: ArrayLike) -> Example:
        ids, mask = np.asarray(token_ids, np.int32), np.asarray(loss_mask, np.uint8)
        if ids.ndim != 1 or ids.shape != mask.shape:
            raise ValueError(f"token_ids {ids.shape} and loss_mask {mask.shape} must be of one length")
        return Example(ids[: self._length].copy(), mask[: self._length].copy())


def bins(lengths: NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: which lengths go into one row together.

    Works on the histogram of lengths, so a million examples take no longer than a thousand.

    Args:
        lengths: `(N,)`, each at most `capacity`.
        capacity: tokens of a row.

    Returns:
        One list of lengths per row; together they are `lengths`.
    """
    # With one separator counted to each example, a row has room for one more.
    free: dict[int, list[list[int]]] = {}
    values, counts = np.unique(lengths, return_counts=True)
    for size, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        left = count
        while left:
            space = min((room for room in free if room >= size + 1), default=capacity + 1)
            rows = free.pop(space, [])
            if not rows:
                rows = [[] for _ in range(-(-left // max(1, (capacity + 1) // (size + 1))))]
            taken, kept = rows[:left], rows[left:]
            if kept:
                free[space] = kept
            for row in taken:
                row.append(size)
            free.setdefault(space - size - 1, []).extend(taken)
            left -= len(taken)
    return [row for rows in free.values() for row in rows]
