"""Batch plans: every example once, few shapes, the same arrays at every call."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bit_axon.data.examples import Example, PairExample, PreferenceItem
from bit_axon.errors import DataError
from bit_axon.training.collate import (
    Batch,
    BatchCollator,
    PairBatchPlan,
    TokenBatchPlan,
    iterate_batches,
    iterate_orpo_batches,
)

EOS = 2
PAD = 0


def example(number: int, length: int) -> Example:
    """Tokens tell which example they are of: `number` + 10; odd ones are half trained, others all."""
    mask = np.ones(length, np.uint8)
    mask[: length // 2 * (number % 2)] = 0
    return Example(np.full(length, number + 10, np.int32), mask)


def examples_of(lengths: list[int]) -> list[Example]:
    return [example(number, length) for number, length in enumerate(lengths)]


def token_plan(examples: list[Example], **changes: Any) -> TokenBatchPlan:
    settings: dict[str, Any] = {
        "batch_size": 2,
        "max_seq_len": 64,
        "packing": False,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "seed": 3,
        "require_full_batch": False,
    }
    return TokenBatchPlan(examples, **(settings | changes))


def epoch_of(plan: TokenBatchPlan | PairBatchPlan, epoch: int = 0) -> list[Batch]:
    return [plan.batch(epoch, index) for index in range(plan.batches_in_epoch(epoch))]


def numbers(batches: list[Batch]) -> list[int]:
    """The examples in the batches, row by row."""
    rows = [row for batch in batches for row in batch.tokens]
    return [int(n) - 10 for row in rows for n in dict.fromkeys(row[row >= 10].tolist())]


def check(batch: Batch) -> None:
    """What holds for every batch."""
    assert (
        batch.tokens.dtype == np.int32 and batch.mask.dtype == np.float32 and batch.segments.dtype == np.int32
    )
    assert batch.tokens.shape == batch.mask.shape == batch.segments.shape
    assert ((batch.tokens == PAD) == (batch.segments == 0)).all()
    assert batch.supervised_tokens == batch.mask.sum() <= batch.target_slots
    assert batch.real_tokens == ((batch.tokens != PAD) & (batch.tokens != EOS)).sum()
    targets = np.argwhere(batch.mask > 0)
    for row, column in targets:
        assert column > 0 and batch.segments[row, column] == batch.segments[row, column - 1] > 0


lengths_lists = st.lists(st.integers(1, 80), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(lengths_lists, st.integers(1, 5), st.booleans(), st.booleans(), st.integers(0, 3))
def test_an_epoch_holds_each_example_once(
    lengths: list[int], batch_size: int, packing: bool, shuffle: bool, epoch: int
) -> None:
    examples = examples_of(lengths)
    plan = token_plan(examples, batch_size=batch_size, packing=packing, shuffle=shuffle)
    batches = epoch_of(plan, epoch)
    assert len(batches) == len(plan)
    assert sorted(numbers(batches)) == list(range(len(lengths)))
    assert sum(batch.examples for batch in batches) == len(lengths)
    assert sum(batch.real_tokens for batch in batches) == sum(min(length, 64) for length in lengths)
    shapes = {batch.tokens.shape for batch in batches}
    assert {shape[0] for shape in shapes} == {batch_size} and len(shapes) <= 8
    assert {shape[1] for shape in shapes} <= set(plan.lengths)
    if packing:
        assert len(shapes) == 1
    for batch in batches:
        check(batch)


@settings(max_examples=30, deadline=None)
@given(lengths_lists, st.booleans())
def test_masks_are_those_of_the_examples(lengths: list[int], packing: bool) -> None:
    examples = examples_of(lengths)
    for batch in epoch_of(token_plan(examples, packing=packing)):
        for number in numbers([batch]):
            here = batch.tokens == number + 10
            expected = examples[number].loss_mask[:64].copy()
            expected[0] = 0
            assert batch.mask[here].tolist() == expected.tolist()


@pytest.mark.parametrize("packing", [True, False])
def test_batches_are_a_pure_function_of_position(packing: bool) -> None:
    lengths = np.random.default_rng(1).integers(2, 60, 50).tolist()
    first, second = (token_plan(examples_of(lengths), packing=packing) for _ in range(2))
    places = [(epoch, index) for epoch in range(3) for index in range(len(first))]
    straight = {place: first.batch(*place) for place in places}
    for place in np.random.default_rng(2).permutation(places).tolist():
        again = second.batch(*place)
        for name in ("tokens", "mask", "segments"):
            assert np.array_equal(getattr(again, name), getattr(straight[tuple(place)], name))
    orders = [numbers(epoch_of(first, epoch)) for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert numbers(epoch_of(token_plan(examples_of(lengths), packing=packing, seed=4))) != orders[0]


def test_rows_of_packs_are_shuffled_too() -> None:
    lengths = np.random.default_rng(1).integers(2, 60, 50).tolist()
    plan = token_plan(examples_of(lengths), packing=True, batch_size=1)
    sizes = [[batch.real_tokens for batch in epoch_of(plan, epoch)] for epoch in range(2)]
    assert sizes[0] != sizes[1] and sorted(sizes[0]) == sorted(sizes[1])


def test_who_shares_a_row_is_drawn_anew_by_epoch_and_seed() -> None:
    lengths = np.random.default_rng(1).integers(20, 40, 300).tolist()

    def partners(seed: int, epoch: int) -> set[frozenset[int]]:
        plan = token_plan(examples_of(lengths), packing=True, batch_size=2, max_seq_len=128, seed=seed)
        rows = [row for batch in epoch_of(plan, epoch) for row in batch.tokens]
        return {frozenset(row[row >= 10].tolist()) for row in rows if row.any()}

    first = partners(3, 0)
    assert first == partners(3, 0) and len(first) > 30
    for other in (partners(3, 1), partners(4, 0)):
        assert len(first & other) < 0.05 * len(first)


def test_unshuffled_order_is_the_same_in_each_epoch_and_near_to_that_of_the_rows() -> None:
    examples = examples_of([5, 50, 6, 7, 8, 60, 9])
    plan = token_plan(examples, shuffle=False, batch_size=1)
    assert numbers(epoch_of(plan)) == numbers(epoch_of(plan, 7)) == list(range(7))
    pairs = numbers(epoch_of(token_plan(examples, shuffle=False)))
    assert sorted(pairs) == list(range(7)) and pairs[0] == 0


def test_missing_rows_are_padding() -> None:
    plan = token_plan(examples_of([8, 8, 8]), batch_size=2)
    short = next(batch for batch in epoch_of(plan) if batch.examples == 1)
    assert short.tokens.shape[0] == 2
    assert not short.segments[1].any() and not short.mask[1].any() and (short.tokens[1] == PAD).all()


def test_packs_are_well_filled_and_of_the_given_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 40, 300).tolist()
    plan = token_plan(examples_of(lengths), packing=True, max_seq_len=512, pack_length=128)
    batches = epoch_of(plan)
    assert plan.lengths == (128,)
    filled = sum(batch.real_tokens for batch in batches) / sum(batch.tokens.size for batch in batches)
    assert filled > 0.9
    assert int(max(batch.segments.max() for batch in batches)) > 3
    assert token_plan(examples_of(lengths), packing=True, max_seq_len=512).lengths == (512,)


def test_pack_length_is_never_below_the_longest_example_nor_above_the_limit() -> None:
    assert token_plan(examples_of([60, 5]), packing=True, pack_length=16).lengths == (60,)
    assert token_plan(examples_of([600, 5]), packing=True, max_seq_len=700).lengths == (608,)
    assert token_plan(examples_of([90, 5]), packing=True, max_seq_len=64).lengths == (64,)
    assert token_plan(examples_of([5, 5, 5, 5]), packing=True, max_seq_len=2048).lengths == (16,)


def test_a_set_smaller_than_a_batch() -> None:
    with pytest.raises(DataError, match=r"at least 4 rows .*3 examples\. Lower training\.batch_size to 3"):
        token_plan(examples_of([5, 5, 5]), batch_size=4, require_full_batch=True)
    with pytest.raises(DataError, match=r"3 examples in 1 packed rows of 48 tokens.*data\.packing=false"):
        token_plan(
            examples_of([5, 5, 5]), batch_size=2, packing=True, pack_length=48, require_full_batch=True
        )
    with pytest.raises(DataError, match=r"at least 2 rows .*1 examples"):
        PairBatchPlan(pairs_of([(3, 4)]), batch_size=2, max_seq_len=9, pad_token_id=PAD, seed=0)
    assert len(token_plan(examples_of([5, 5, 5]), batch_size=3, require_full_batch=True)) == 1


def test_an_empty_set() -> None:
    with pytest.raises(DataError, match="at least one example; got an empty set"):
        token_plan([])
    with pytest.raises(DataError, match="at least one example; got an empty set"):
        PairBatchPlan([], batch_size=1, max_seq_len=9, pad_token_id=PAD, seed=0)


def test_positions_behind_the_end() -> None:
    plan = token_plan(examples_of([5, 5, 5]))
    for index in (-1, 2):
        with pytest.raises(IndexError):
            plan.batch(0, index)


def pairs_of(lengths: list[tuple[int, int]]) -> list[PairExample]:
    return [
        PairExample(example(2 * number, chosen), example(2 * number + 1, rejected))
        for number, (chosen, rejected) in enumerate(lengths)
    ]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(2, 80), st.integers(2, 80)), min_size=1, max_size=20), st.integers(1, 4)
)
def test_pairs_stay_together(lengths: list[tuple[int, int]], batch_size: int) -> None:
    plan = PairBatchPlan(
        pairs_of(lengths),
        batch_size=batch_size,
        max_seq_len=64,
        pad_token_id=PAD,
        seed=1,
        require_full_batch=False,
    )
    batches = epoch_of(plan)
    assert sorted(numbers(batches)) == list(range(2 * len(lengths)))
    for batch in batches:
        check(batch)
        assert batch.tokens.shape[0] == 2 * batch_size and batch.tokens.shape[1] in plan.lengths
        assert batch.prompt_slots + batch.response_slots + 1 == batch.tokens.shape[1]
        for row in range(batch_size):
            chosen, rejected = batch.tokens[row, 0], batch.tokens[row + batch_size, 0]
            assert rejected == (chosen + 1 if row < batch.examples else PAD)
    assert sum(batch.examples for batch in batches) == len(lengths)


def test_collator_uses_the_smallest_bucket_and_cuts_to_the_largest() -> None:
    collator = BatchCollator(PAD, (4, 8))
    assert collator(examples_of([3, 4])).tokens.shape == (2, 4)
    assert collator(examples_of([3, 5])).tokens.shape == (2, 8)
    assert collator(examples_of([3, 20])).real_tokens == 11


def test_iterators_are_the_plans() -> None:
    examples = examples_of([5, 9, 30, 4])
    once = list(iterate_batches(examples, 1, 64, eos_token_id=EOS, pad_token_id=PAD, seed=3))
    plan = token_plan(examples, batch_size=1, packing=True)
    assert [b.tokens.tolist() for b in once] == [b.tokens.tolist() for b in epoch_of(plan)]
    looped = iterate_batches(examples, 1, 8, eos_token_id=EOS, pad_token_id=PAD, seed=3, loop=True)
    assert sorted(numbers(list(islice(looped, 8)))) == sorted([0, 1, 2, 3] * 2)
    flat = [PreferenceItem(*pair.chosen, *pair.rejected) for pair in pairs_of([(3, 4), (5, 6)])]
    assert sum(batch.examples for batch in iterate_orpo_batches(flat, 2, 64, pad_token_id=PAD)) == 2
    endless = iterate_orpo_batches(flat, 2, 64, pad_token_id=PAD, loop=True)
    assert len(list(islice(endless, 5))) == 5
