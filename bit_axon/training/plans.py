"""Batches as pure functions of seed, epoch and index.

A resumed run needs no replay: `plan.batch(epoch, index)` gives the same arrays in every process. An epoch
holds every example once; its order is drawn from `numpy.random.default_rng([seed, epoch])`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bit_axon.data.examples import Example, PairExample, PreferenceItem
from bit_axon.data.sequences import pair_store, token_store
from bit_axon.errors import DataError, problem
from bit_axon.training.batches import Batch, BatchCollator
from bit_axon.training.ordering import EpochOrder, GroupedOrder, Order, PackedOrder, choose_pack_length
from bit_axon.training.shapes import POSITION_COST, TARGET_COST, Shapes, choose_shapes, rounded_up
from bit_axon.training.supervision import (
    needs_of_pairs,
    sum_of_largest,
    token_supervision,
)

Indices = NDArray[np.int64]

# A typical epoch: of a small set, some epochs together.
_TYPICAL_BATCHES = 256
_TYPICAL_EPOCHS = 8
# Pairs whose lengths differ by less are ordered by their responses.
_LIKE_LENGTHS = 32


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
        found = self._found = token_supervision(self._examples, max_seq_len)
        _require_any(len(found.lengths))
        order: Order
        self._row_length: int | None = None
        if packing:
            row_length = pack_length or choose_pack_length(found.lengths, max_seq_len, batch_size)
            self._row_length = min(max(row_length, int(found.lengths.max())), max_seq_len)
            order = PackedOrder(found.lengths, batch_size, self._row_length)
        else:
            order = GroupedOrder((found.lengths,), batch_size)
        if require_full_batch:
            _require_batch(len(found.lengths), order.row_count, batch_size, self._row_length)
        self._schedule = _Schedule(order, batch_size=batch_size, seed=seed, shuffle=shuffle)
        self._shapes = self._chosen_shapes(batch_size, max_seq_len)
        lengths = self._shapes.sizes[:, 0].tolist() if self._row_length is None else [self._row_length]
        self.lengths: tuple[int, ...] = tuple(sorted(set(lengths)))
        self._collator = BatchCollator(pad_token_id, self.lengths)
        self._eos_token_id = eos_token_id
        self._batch_size = batch_size

    def __len__(self) -> int:
        return self._schedule.batches

    def batches_in_epoch(self, epoch: int) -> int:
        """The same number in each epoch; the last batch may be short."""
        return self._schedule.batches

    def batch(self, epoch: int, index: int) -> Batch:
        """A batch of an epoch, both from 0; raises IndexError behind the last."""
        rows = self._schedule.rows(epoch, index)
        packs = [[self._examples[i] for i in row.tolist()] for row in rows]
        members = np.concatenate(rows)
        targets = int(self._found.targets[members].sum())
        if self._row_length is not None:
            (slots,) = self._shapes.smallest([targets])
            batch = self._collator.packs(packs, self._batch_size, self._row_length, self._eos_token_id)
        else:
            length, slots = self._shapes.smallest([int(self._found.lengths[members].max()), targets])
            batch = self._collator.examples([pack[0] for pack in packs], self._batch_size, length)
        return replace(batch, target_slots=slots)

    def _chosen_shapes(self, rows: int, max_seq_len: int) -> Shapes:
        """Of targets alone where all rows are of one length, else of row lengths and targets."""
        found, epochs = self._found, self._schedule.typical()
        targets = np.concatenate([epoch.sums(found.targets) for epoch in epochs])
        if self._row_length is not None:
            most = max(min(rows * (self._row_length - 1), int(found.targets.sum())), 1)
            fixed = POSITION_COST * rows * self._row_length
            return choose_shapes(targets[:, None], [most], [TARGET_COST], fixed)
        lengths = np.concatenate([epoch.largest(found.lengths) for epoch in epochs])
        limits = [rounded_up(int(found.lengths.max()), max_seq_len), sum_of_largest(found.targets, rows)]
        return choose_shapes(np.stack([lengths, targets], 1), limits, [POSITION_COST * rows, TARGET_COST])


class PairBatchPlan:
    """Batches of pairs, never packed: `batch_size` chosen rows above `batch_size` rejected ones.

    Args:
        pairs: an encoded set; a sequence that is no store is read once, into memory.
        batch_size: pairs per batch.
        max_seq_len: tokens; longer sequences are cut.
        pad_token_id: fills up rows.
        seed: decides the order of each epoch; pairs of like length, with like responses, share a batch.
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
        self._needs = needs_of_pairs(self._pairs, max_seq_len)
        _require_any(len(self._pairs))
        if require_full_batch:
            _require_batch(len(self._pairs), len(self._pairs), batch_size, None)
        longest, responses, _ = self._needs.T
        order = GroupedOrder((longest // _LIKE_LENGTHS, responses), batch_size)
        self._schedule = _Schedule(order, batch_size=batch_size, seed=seed, shuffle=shuffle)
        self._shapes = self._chosen_shapes(batch_size, max_seq_len)
        self.lengths: tuple[int, ...] = tuple(
            sorted({size + 1 for size in self._shapes.sizes[:, 0].tolist()})
        )
        self._collator = BatchCollator(pad_token_id, self.lengths)
        self._batch_size = batch_size

    def __len__(self) -> int:
        return self._schedule.batches

    def batches_in_epoch(self, epoch: int) -> int:
        """The same number in each epoch; the last batch may be short."""
        return self._schedule.batches

    def batch(self, epoch: int, index: int) -> Batch:
        """A batch of an epoch, both from 0; raises IndexError behind the last."""
        members = np.concatenate(self._schedule.rows(epoch, index))
        needs = self._needs[members]
        inputs, response, slots = self._shapes.smallest([*needs[:, :2].max(axis=0), needs[:, 2].sum()])
        pairs = [self._pairs[i] for i in members.tolist()]
        batch = self._collator.pairs(pairs, self._batch_size, inputs + 1)
        response = min(response, inputs)
        return replace(batch, target_slots=slots, prompt_slots=inputs - response, response_slots=response)

    def _chosen_shapes(self, pairs: int, max_seq_len: int) -> Shapes:
        """Of whole rows but their last token, of responses and of targets.

        What remains of the rows are the slots of prompts. A prompt that is longer shares as much as that
        and goes on with the response, so a shape with short prompts serves pairs with long ones too.
        """
        epochs = self._schedule.typical()
        inputs, responses, targets = self._needs.T
        needs = [np.concatenate([epoch.largest(sizes) for epoch in epochs]) for sizes in (inputs, responses)]
        needs.append(np.concatenate([epoch.sums(targets) for epoch in epochs]))
        limits = [rounded_up(int(sizes.max()), max_seq_len - 1) for sizes in (inputs, responses)]
        limits.append(sum_of_largest(targets, pairs))
        costs = [POSITION_COST * pairs, POSITION_COST * pairs, TARGET_COST]  # P (S + 2 R) = P (S + R) + P R
        return choose_shapes(np.stack(needs, axis=1), limits, costs)


class _Schedule:
    """Orders by epoch. The latest is kept as a shortcut: any other is drawn again when asked for."""

    def __init__(self, order: Order, *, batch_size: int, seed: int, shuffle: bool):
        self._order = order
        self._seed = seed
        self._shuffle = shuffle
        self._latest: tuple[int, EpochOrder] | None = None
        self.batches = -(-order.row_count // batch_size)

    def rows(self, epoch: int, index: int) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
        """The example numbers of each row of a batch."""
        if not 0 <= index < self.batches:
            raise IndexError(f"batch {index} of {self.batches}")
        latest = self._latest
        if latest is None or latest[0] != epoch:
            latest = self._latest = (epoch, self._drawn(epoch))
        return latest[1].batch(index)

    def typical(self) -> list[EpochOrder]:
        """Epochs to choose shapes by: the one there is, or some that may be any."""
        if not self._shuffle:
            return [self._order.epoch(None)]
        generator = np.random.default_rng(0)
        count = min(-(-_TYPICAL_BATCHES // self.batches), _TYPICAL_EPOCHS)
        return [self._order.epoch(generator) for _ in range(count)]

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
