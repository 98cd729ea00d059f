"""Packing: nothing lost, nothing split, masks and borders kept."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bit_axon.data.examples import Example
from bit_axon.errors import ConfigError
from bit_axon.training.packing import PackedBatch, SequencePacker, bins

EOS = 9
PAD = 8
Rows = list[tuple[list[int], list[int]]]

# Ids below 8, so that separators and padding can be told apart.
rows = st.lists(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 1)), min_size=1, max_size=12).map(
        lambda pairs: ([token for token, _ in pairs], [flag for _, flag in pairs])
    ),
    max_size=20,
)


def packed(examples: Rows, length: int) -> list[PackedBatch]:
    packer = SequencePacker(length, EOS, PAD)
    found = [batch for ids, mask in examples for batch in packer.add_example(ids, mask)]
    last = packer.flush()
    assert packer.flush() is None
    return found if last is None else [*found, last]


def unpacked(batches: list[PackedBatch]) -> Rows:
    found: Rows = []
    for batch in batches:
        for segment in range(1, int(batch.segment_ids.max()) + 1):
            here = batch.segment_ids == segment
            ids, mask = batch.token_ids[here].tolist(), batch.loss_mask[here].tolist()
            if segment < batch.segment_ids.max():
                assert ids.pop() == EOS and mask.pop() == 0
            found.append((ids, mask))
    return found


@settings(max_examples=200, deadline=None)
@given(rows, st.integers(1, 30))
def test_no_example_is_lost_split_or_changed(examples: Rows, length: int) -> None:
    batches = packed(examples, length)
    assert unpacked(batches) == [(ids[:length], mask[:length]) for ids, mask in examples]
    for batch in batches:
        assert len(batch.token_ids) == len(batch.loss_mask) == len(batch.segment_ids) == length
        padding = batch.segment_ids == 0
        assert (batch.token_ids[padding] == PAD).all() and not batch.loss_mask[padding].any()
        assert not padding[: int((~padding).sum())].any()
        assert (np.diff(batch.segment_ids[~padding]) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(rows, st.integers(1, 30))
def test_a_row_ends_only_when_the_next_example_does_not_fit(examples: Rows, length: int) -> None:
    batches = packed(examples, length)
    for first, second in pairwise(batches):
        used, following = int((first.segment_ids > 0).sum()), int((second.segment_ids == 1).sum())
        separator = 1 if second.segment_ids.max() > 1 else 0
        assert used + 1 + following - separator > length


def test_layout() -> None:
    batches = packed([([1, 2, 3], [0, 1, 1]), ([4, 5], [0, 1]), ([6], [1])], 8)
    assert [batch.token_ids.tolist() for batch in batches] == [[1, 2, 3, EOS, 4, 5, EOS, 6]]
    assert batches[0].loss_mask.tolist() == [0, 1, 1, 0, 0, 1, 0, 1]
    assert batches[0].segment_ids.tolist() == [1, 1, 1, 1, 2, 2, 2, 3]


def test_full_rows_come_at_once() -> None:
    packer = SequencePacker(max_seq_len=4, eos_token_id=EOS)
    assert packer.add_example([1, 2], [0, 1]) == []
    both = packer.add_example([3, 4, 5, 6, 7], [1, 1, 1, 1, 1])
    assert [batch.token_ids.tolist() for batch in both] == [[1, 2, EOS, EOS], [3, 4, 5, 6]]
    assert both[0].segment_ids.tolist() == [1, 1, 0, 0]
    assert packer.flush() is None


def test_an_empty_example_adds_nothing_and_lengths_must_agree() -> None:
    packer = SequencePacker(4, EOS)
    assert packer.add_example([], []) == [] and packer.flush() is None
    with pytest.raises(ValueError, match="one length"):
        packer.add_example([1, 2], [1])
    with pytest.raises(ConfigError, match="max_seq_len"):
        SequencePacker(0, EOS)


def test_the_caller_may_reuse_its_arrays() -> None:
    ids = np.array([1, 2], np.int32)
    packer = SequencePacker(4, EOS)
    packer.add_example(*Example(ids, np.ones(2, np.uint8)))
    ids[:] = 0
    last = packer.flush()
    assert last is not None and last.token_ids.tolist() == [1, 2, EOS, EOS]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60), st.integers(40, 60))
def test_bins_hold_every_length_once_and_never_too_much(lengths: list[int], capacity: int) -> None:
    found = bins(np.array(lengths, np.int64), capacity)
    assert sorted(size for row in found for size in row) == sorted(lengths)
    for row in found:
        assert row and sum(row) + len(row) - 1 <= capacity
    # No two rows could be one: what best fit promises at least.
    used = sorted(sum(row) + len(row) for row in found)
    assert len(used) < 2 or used[0] + used[1] > capacity + 1


def test_bins_fill_rows_well() -> None:
    lengths = np.random.default_rng(0).integers(10, 120, 2000)
    found = bins(lengths, 512)
    assert (lengths.sum() + len(lengths)) / (513 * len(found)) > 0.98
