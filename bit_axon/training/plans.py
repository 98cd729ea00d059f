"""Batches as pure functions of seed, epoch and index.

A resumed run needs no replay: `plan.batch(epoch, index)` gives the same arrays in every process. An epoch
holds every example once; its order is drawn from `numpy.random.default_rng([seed, epoch])`.
"""

from collections.abc import Sequence

import numpy as np

from bit_axon.data.examples import Example, PairExample, PreferenceItem
from bit_axon.data.sequences import pair_store, token_store
from bit_axon.errors import DataError, problem
from bit_axon.training.batches import Batch, BatchCollator
from bit_axon.training.ordering import (
    EpochOrder,
    GroupedOrder,
    PackedOrder,
    choose_buckets,
    choose_pack_length,
)


class TokenBatchPlan:
    """Batches of single sequences, packed or not.

    Args:
        examples: an encoded set; a sequence that is no store is read once, into memory.
        batch_size: rows per batch.
        max_seq_len: tokens; longer examples are cut.
        packing: several examples per row, in rows of one length.
        eos_token_id: stands between packed examples.
        pad_token_id: fills up rows.
        seed: decides the order of each epoch.
        shuffle: False keeps one order, near to that of the examples, for evaluation.
        pack_length: tokens of a packed row; None = 512, less for a small set. Never below the longest
            example.
        require_full_batch: refuse a set that does not fill one batch.

    Attributes:
        lengths: the row lengths that occur, at most eight.

    Raises:
        DataError: no example, or fewer rows than `batch_size`.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        batch_size: int,
        max_seq_len: int,
        packing: bool,
        eos_token_id: int,
        pad_token_id: int,
        seed: int,
        shuffle: bool = True,
        pack_length: int | None = None,
        require_full_batch: bool = True,
    ):
        self._examples = token_store(examples)
        sizes = np.minimum(self._examples.lengths, max_seq_len)
        _require_any(len(sizes))
        self.lengths: tuple[int, ...]
        order: GroupedOrder | PackedOrder
        if packing:
            row_length = pack_length or choose_pack_length(sizes, max_seq_len, batch_size)
            self.lengths = (min(max(row_length, int(sizes.max())), max_seq_len),)
            order = PackedOrder(sizes, batch_size, self.lengths[0])
        else:
            order = GroupedOrder(sizes, batch_size)
            self.lengths = choose_buckets(order.longest(), max_seq_len)
        if require_full_batch:
            _require_batch(len(sizes), order.row_count, batch_size, self.lengths[0] if packing else None)
        self._schedule = _Schedule(order, batch_size=batch_size, seed=seed, shuffle=shuffle)
        self._collator = BatchCollator(pad_token_id, self.lengths)
        self._eos_token_id = eos_token_id
        self._batch_size = batch_size
        self._packing = packing

    def __len__(self) -> int:
        return self._schedule.batches

    def batches_in_epoch(self, epoch: int) -> int:
        """The same number in each epoch; the last batch may be short."""
        return self._schedule.batches

    def batch(self, epoch: int, index: int) -> Batch:
        """A batch of an epoch, both from 0; raises IndexError behind the last."""
        packs = [[self._examples[i] for i in row.tolist()] for row in self._schedule.rows(epoch, index)]
        if self._packing:
            return self._collator.packs(packs, self._batch_size, self._eos_token_id)
        return self._collator.examples([pack[0] for pack in packs], self._batch_size)


class PairBatchPlan:
    """Batches of pairs, never packed: `batch_size` chosen rows above `batch_size` rejected ones.

    Args:
        pairs: an encoded set; a sequence that is no store is read once, into memory.
        batch_size: pairs per batch.
        max_seq_len: tokens; longer sequences are cut.
        pad_token_id: fills up rows.
        seed: decides the order of each epoch.
        shuffle: False keeps one order, near to that of the pairs, for evaluation.
        require_full_batch: refuse a set that does not fill one batch.

    Attributes:
        lengths: the row lengths that occur, at most eight.

    Raises:
        DataError: no pair, or fewer than `batch_size`.
    """

    def __init__(
        self,
        pairs: Sequence[PairExample] | Sequence[PreferenceItem],
        *,
        batch_size: int,
        max_seq_len: int,
        pad_token_id: int,
        seed: int,
        shuffle: bool = True,
        require_full_batch: bool = True,
    ):
        self._pairs = pair_store(pairs)
        sizes = np.minimum(self._pairs.lengths, max_seq_len)
        _require_any(len(sizes))
        if require_full_batch:
            _require_batch(len(sizes), len(sizes), batch_size, None)
        order = GroupedOrder(sizes, batch_size)
        self.lengths = choose_buckets(order.longest(), max_seq_len)
        self._schedule = _Schedule(order, batch_size=batch_size, seed=seed, shuffle=shuffle)
        self._collator = BatchCollator(pad_token_id, self.lengths)
        self._batch_size = batch_size

    def __len__(self) -> int:
        return self._schedule.batches

    def batches_in_epoch(self, epoch: int) -> int:
        """The same number in each epoch; the last batch may be short."""
        return self._schedule.batches

    def batch(self, epoch: int, index: int) -> Batch:
        """A batch of an epoch, both from 0; raises IndexError behind the last."""
        rows = self._schedule.rows(epoch, index)
        return self._collator.pairs([self._pairs[int(row[0])] for row in rows], self._batch_size)


class _Schedule:
    """Orders by epoch. The latest is kept as a shortcut: any other is drawn again when asked for."""

    def __init__(self, order: GroupedOrder | PackedOrder, *, batch_size: int, seed: int, shuffle: bool):
        self._order = order
        self._seed = seed
        self._shuffle = shuffle
        self._latest: tuple[int, EpochOrder] | None = None
        self.batches = -(-order.row_count // batch_size)

    def rows(self, epoch: int, index: int) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
        """The example numbers of each row of a batch."""
        if not 0 <= index < self.batches:
            raise IndexError(f"batch {index} of {self.batches}")
        if self._latest is None or self._latest[0] != epoch:
            self._latest = (epoch, self._drawn(epoch))
        return self._latest[1].batch(index)

    def _drawn(self, epoch: int) -> EpochOrder:
        return self._order.epoch(np.random.default_rng([self._seed, epoch]) if self._shuffle else None)


def _require_any(count: int) -> None:
    if not count:
        raise DataError(problem("at least one example", "an empty set", "Give a source that has rows."))


def _require_batch(examples: int, rows: int, batch_size: int, row_length: int | None) -> None:
    if rows >= batch_size:
        return
    got = f"a set smaller than a batch: {examples} examples"
    if row_length is None:
        remedy = f"Lower training.batch_size to {rows}, or add data."
    else:
        got += f" in {rows} packed rows of {row_length} tokens"
        remedy = f"Lower training.batch_size to {rows}, set data.packing=false, or add data."
    raise DataError(problem(f"at least {batch_size} rows (training.batch_size)", got, remedy))
