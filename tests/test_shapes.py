"""At most eight shapes for all batches of a run, and none too small."""

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from architectures import VOCABULARY, build
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from bit_axon.data.examples import Example, PairExample
from bit_axon.data.sequences import Resampled, in_memory, pair_store
from bit_axon.models.inputs import shared_length
from bit_axon.models.policy import Policy
from bit_axon.training.batches import Batch, split_batch
from bit_axon.training.collate import PairBatchPlan, TokenBatchPlan
from bit_axon.training.shapes import Shapes, choose_shapes
from bit_axon.training.supervision import first_targets, needs_of_pairs, token_supervision

CAP = 512
Shape = tuple[tuple[int, ...], int, int, int]


def random_examples(random: np.random.Generator, count: int) -> list[Example]:
    """Skewed lengths, a few very long, and prompts that take any share of them."""
    found = []
    for number in range(count):
        length = int(np.clip(random.lognormal(3.5, 1.1), 2, 2 * CAP))
        mask = np.ones(length, np.uint8)
        mask[: int(random.integers(0, length))] = 0
        found.append(Example(np.full(length, number + 10, np.int32), mask))
    return found


def random_pairs(random: np.random.Generator, count: int) -> list[PairExample]:
    return [random_pair(random, *random.integers(1, [CAP, 60, 60])) for _ in range(count)]


def random_pair(random: np.random.Generator, prompt: int, *responses: int) -> PairExample:
    """Both sides begin with the same prompt."""
    begin = random.integers(3, 900, prompt)
    sides = [np.concatenate([begin, random.integers(3, 900, size)]).astype(np.int32) for size in responses]
    return PairExample(*(Example(s, (np.arange(len(s)) >= prompt).astype(np.uint8)) for s in sides))


def shape(batch: Batch) -> Shape:
    return batch.tokens.shape, batch.target_slots, batch.prompt_slots, batch.response_slots


def batches_of(plan: TokenBatchPlan | PairBatchPlan, epochs: int = 3) -> list[Batch]:
    return [plan.batch(e, i) for e in range(epochs) for i in range(plan.batches_in_epoch(e))]


def targets(examples: list[Example]) -> int:
    return sum(int(example.loss_mask[1:CAP].sum()) for example in examples)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("packing", [False, True])
def test_sequences_have_at_most_eight_shapes_and_keep_every_target(packing: bool, batch_size: int) -> None:
    examples = random_examples(np.random.default_rng(0), 500)
    settings = {"max_seq_len": CAP, "eos_token_id": 2, "pad_token_id": 0, "seed": 1}
    plan = TokenBatchPlan(examples, batch_size=batch_size, packing=packing, **settings)
    batches = batches_of(plan)
    assert 1 < len({shape(batch) for batch in batches}) <= 8
    assert all(batch.supervised_tokens == batch.mask.sum() <= batch.target_slots for batch in batches)
    assert sum(batch.supervised_tokens for batch in batches) == 3 * targets(examples)
    if packing:
        assert len({batch.tokens.shape for batch in batches}) == 1
    filled = sum(batch.supervised_tokens for batch in batches) / sum(batch.target_slots for batch in batches)
    assert filled > (0.4 if batch_size == 1 else 0.5)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_pairs_have_at_most_eight_shapes_and_keep_every_target(batch_size: int) -> None:
    pairs = random_pairs(np.random.default_rng(0), 300)
    plan = PairBatchPlan(pairs, batch_size=batch_size, max_seq_len=CAP, pad_token_id=0, seed=1)
    batches = batches_of(plan)
    assert 1 < len({shape(batch) for batch in batches}) <= 8
    assert all(batch.supervised_tokens <= batch.target_slots for batch in batches)
    kept = [example for pair in pairs for example in pair]
    assert sum(batch.supervised_tokens for batch in batches) == 3 * targets(kept)
    for batch in batches:
        assert_slots_hold(batch)
    shared = sum(len(b.tokens) * (b.prompt_slots / 2 + b.response_slots) for b in batches)
    assert shared < 0.75 * sum(batch.tokens.size for batch in batches)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_steps_are_compiled_for_at_most_eight_shapes_of_pairs(batch_size: int) -> None:
    """As the model gets them, prompts apart or not."""
    model = build("llama")
    policy = Policy(model, packed=False, vocab_size=VOCABULARY, compiled=True)
    pairs = random_pairs(np.random.default_rng(0), 200)
    plan = PairBatchPlan(pairs, batch_size=batch_size, max_seq_len=CAP, pad_token_id=0, seed=1)
    kinds = set()
    for batch in batches_of(plan):
        kinds.add(tuple(array.shape for _, array in tree_flatten(policy.arrays(batch))))
    assert 1 < len(kinds) <= 8


def assert_slots_hold(batch: Batch) -> None:
    """What is not in the slots of prompts is in those of responses, up to the last target."""
    count = len(batch.tokens) // 2
    assert batch.prompt_slots + batch.response_slots == batch.tokens.shape[1] - 1
    for row in range(batch.examples):
        shared = min(shared_length(batch, (row, row + count)), batch.prompt_slots)
        for side in (row, row + count):
            last = np.flatnonzero(batch.mask[side]).max(initial=0)
            assert last - shared <= batch.response_slots


def test_pairs_of_a_batch_are_alike() -> None:
    pairs = random_pairs(np.random.default_rng(0), 512)
    plan = PairBatchPlan(pairs, batch_size=4, max_seq_len=CAP, pad_token_id=0, seed=1)
    spreads = []
    for batch in batches_of(plan, 1):
        prompts = [shared_length(batch, (row, row + 4)) for row in range(4)]
        spreads.append(max(prompts) - min(prompts))
    assert np.median(spreads) < 40


def test_a_common_beginning_that_ends_before_the_first_target_is_no_harm() -> None:
    """Then fewer tokens are shared than planned: whoever runs the batch finds that out from the tokens."""
    pair = random_pair(np.random.default_rng(0), 30, 5, 9)
    pair.rejected.token_ids[10] += 1
    batch = PairBatchPlan([pair], batch_size=1, max_seq_len=CAP, pad_token_id=0, seed=1).batch(0, 0)
    assert shared_length(batch, (0, 1)) == 10 and batch.prompt_slots + batch.response_slots >= 38


def test_parts_of_a_batch_keep_its_sizes() -> None:
    pairs = random_pairs(np.random.default_rng(0), 8)
    batch = PairBatchPlan(pairs, batch_size=4, max_seq_len=CAP, pad_token_id=0, seed=1).batch(0, 0)
    parts = split_batch(batch, 3)
    assert {shape(part) for part in parts} == {shape(batch)} and len(parts) == 3
    assert sum(part.supervised_tokens for part in parts) == batch.supervised_tokens


def test_a_batch_of_no_plan_has_as_many_slots_as_targets() -> None:
    tokens = np.ones((2, 5), np.int32)
    mask = np.zeros((2, 5), np.float32)
    mask[:, 3:] = 1
    batch = Batch(tokens, mask, tokens, 2, 10, 4)
    assert batch.target_slots == 4
    assert Batch(tokens, mask, tokens, 2, 10, 4, target_slots=6).target_slots == 6


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 400)), min_size=1, max_size=60),
    st.integers(0, 50),
)
def test_shapes_hold_every_batch(needs: list[tuple[int, int]], spare: int) -> None:
    wanted = np.array(needs)
    limits = (wanted.max(axis=0) + spare).tolist()
    shapes = choose_shapes(wanted, limits, [10, 4])
    assert 1 <= len(shapes.sizes) <= 8
    assert shapes.sizes[-1].tolist() == limits and (shapes.sizes <= limits).all()
    for need in [*needs, limits]:
        assert (np.array(shapes.smallest(need)) >= need).all()
    with pytest.raises(ValueError, match="more than"):
        shapes.smallest([limits[0] + 1, 1])


def test_shapes_are_nearly_the_best_there_are() -> None:
    """Of all ways to have three shapes beside the largest."""
    random = np.random.default_rng(0)
    needs = np.repeat(random.integers(1, 9, (9, 2)) * 16, random.integers(1, 9, 9), axis=0)
    limits, costs = (needs.max(axis=0)).tolist(), [10, 4]
    shapes = choose_shapes(needs, limits, costs)
    corners = np.array(list(product(np.unique(needs[:, 0]), np.unique(needs[:, 1]))))
    others = [np.vstack([corners[list(few)], limits]) for few in combinations(range(len(corners)), 3)]
    best = min(total(needs, other, costs) for other in others)
    assert len(shapes.sizes) >= 4 and total(needs, shapes.sizes, costs) <= 1.02 * best


def total(needs: Any, sizes: Any, costs: list[int]) -> int:
    fits = (needs[:, None] <= sizes).all(axis=2)
    return int(np.where(fits, sizes @ np.array(costs), 10**9).min(axis=1).sum())


def test_a_shape_must_be_worth_it() -> None:
    near, far = np.array([[496], [512]] * 50), np.array([[16], [512]] * 50)
    assert choose_shapes(near, [512], [10]).sizes.tolist() == [[512]]
    assert choose_shapes(far, [512], [10]).sizes.tolist() == [[16], [512]]
    assert choose_shapes(far, [512], [10], fixed_cost=10**6).sizes.tolist() == [[512]]


def test_the_cheapest_shape_that_fits_is_taken() -> None:
    shapes = Shapes(np.array([[16, 64], [64, 16], [64, 64]]))
    assert shapes.smallest([10, 10]) == [16, 64]
    assert shapes.smallest([20, 10]) == [64, 16]
    assert shapes.smallest([20, 20]) == [64, 64]


def test_targets_are_counted_as_the_masks_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bit_axon.training.supervision._CHUNK_TOKENS", 100)
    examples = random_examples(np.random.default_rng(0), 60)
    examples.insert(3, Example(np.zeros(0, np.int32), np.zeros(0, np.uint8)))
    examples.insert(9, Example(np.zeros(4, np.int32), np.array([1, 0, 0, 0], np.uint8)))
    store = in_memory(examples)
    found, firsts = token_supervision(store, 40), first_targets(store)
    for number, example in enumerate(examples):
        expected = np.flatnonzero(example.loss_mask[1:40]) + 1
        assert found.lengths[number] == min(len(example.token_ids), 40)
        assert found.targets[number] == len(expected)
        if len(expected):
            assert firsts[number] == expected[0]
    drawn = np.array([5, 5, 0])
    some = token_supervision(Resampled(store, store.lengths, drawn), 40)
    assert some.targets.tolist() == found.targets[drawn].tolist()


def test_needs_of_resampled_pairs() -> None:
    store = pair_store(
        [random_pair(np.random.default_rng(0), 10, 3, 5), random_pair(np.random.default_rng(1), 6, 8, 2)]
    )
    assert needs_of_pairs(store, CAP).tolist() == [[14, 5, 8], [13, 8, 10]]
    assert needs_of_pairs(store, 12).tolist() == [[11, 2, 4], [11, 6, 8]]
    twice = Resampled(store, store.lengths, np.array([1, 1]))
    assert needs_of_pairs(twice, CAP).tolist() == [[13, 8, 10]] * 2
