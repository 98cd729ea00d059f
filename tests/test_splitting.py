"""A micro-batch in two parts: the same sums, few shapes, right counts."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from architectures import VOCABULARY, build, token_batch
from mlx.utils import tree_flatten

from bit_axon.backend import Compilation, mx
from bit_axon.data.examples import Example, PairExample
from bit_axon.models.cpu.kernels import runs_on_cpu
from bit_axon.models.padded import PaddedRunner
from bit_axon.models.policy import Policy
from bit_axon.schema import TrainingOptions
from bit_axon.training.batches import Batch
from bit_axon.training.collate import PairBatchPlan, TokenBatchPlan
from bit_axon.training.methods import METHODS, build_method
from bit_axon.training.optimizers import build_optimizer
from bit_axon.training.splitting import halves
from bit_axon.training.stepper import Stepper

TOLERANCE = 1e-5
KINDS = ("sft", "sft packed", "pretrain", "pretrain packed", "orpo")
PATHS = ("written out", "padded", "as compiled")
PAD, END = 0, 2
LENGTH = 48

Plan = TokenBatchPlan | PairBatchPlan


def examples(random: np.random.Generator, count: int, *, whole: bool) -> list[Example]:
    """Of any length; trained as a whole, or from anywhere on."""
    found = []
    for _ in range(count):
        length = int(random.integers(4, 24))
        begin = 1 if whole else int(random.integers(1, length))
        mask = (np.arange(length) >= begin).astype(np.uint8)
        found.append(Example(random.integers(3, VOCABULARY, length).astype(np.int32), mask))
    return found


def pairs(random: np.random.Generator, count: int) -> list[PairExample]:
    """Both sides begin with the same prompt, which may be most of them."""
    found = []
    for _ in range(count):
        prompt = random.integers(3, VOCABULARY, int(random.integers(2, 24)))
        sides = [
            np.append(prompt, random.integers(3, VOCABULARY, size)) for size in random.integers(1, 20, 2)
        ]
        masks = [(np.arange(len(side)) >= len(prompt)).astype(np.uint8) for side in sides]
        chosen, rejected = (Example(s.astype(np.int32), m) for s, m in zip(sides, masks, strict=True))
        found.append(PairExample(chosen, rejected))
    return found


def plan(kind: str, batch_size: int, count: int = 11) -> Plan:
    random = np.random.default_rng(7)
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "max_seq_len": LENGTH,
        "pad_token_id": PAD,
        "seed": 0,
        "require_full_batch": False,
    }
    if kind == "orpo":
        return PairBatchPlan(pairs(random, count), **options)
    found = examples(random, 3 * count if "packed" in kind else count, whole="pretrain" in kind)
    return TokenBatchPlan(found, packing="packed" in kind, eos_token_id=END, pack_length=LENGTH, **options)


def batches(kind: str, batch_size: int) -> list[Batch]:
    made = plan(kind, batch_size)
    return [made.batch(epoch, i) for epoch in range(2) for i in range(made.batches_in_epoch(epoch))]


def stepper(kind: str, path: str, *, compile: bool = False) -> Stepper:
    method, packed = kind.split()[0], "packed" in kind
    model = build("qwen2", adapter="dora")
    policy = Policy(model, packed=packed, vocab_size=VOCABULARY, compiled=path != "written out")
    if path == "padded":
        policy._runner = PaddedRunner(model.model, len(model.layers), packed=packed)
    optimizer = build_optimizer(TrainingOptions(optimizer="sgd"), model)
    compilation = Compilation(compile, compile)
    options: dict[str, Any] = {"max_grad_norm": 0.0, "seed": 0, "compilation": compilation}
    return Stepper(policy, build_method({"name": method}), optimizer, **options)


def sums(stepping: Stepper, parts: tuple[Batch, ...]) -> dict[str, np.ndarray]:
    """Loss, weight, metrics and gradients of the parts together; the step is forgotten."""
    for part in parts:
        stepping.add(part, 0)
    stepping.wait()
    loss, weight, metrics, gradients = stepping._sums
    found = {"loss": loss, "weight": weight, **metrics, **gradients}
    stepping.discard()
    return {name: np.array(value, np.float64) for name, value in found.items()}


def assert_same_sums(stepping: Stepper, batch: Batch) -> None:
    whole, apart = sums(stepping, (batch,)), sums(stepping, halves(batch))
    assert whole.keys() == apart.keys() and whole["weight"] == apart["weight"]
    of_metrics = max([abs(float(whole[name])) for name in stepping.method.metrics], default=0.0)
    for name, value in whole.items():
        # A margin is a small difference of large numbers.
        scale = of_metrics if name in stepping.method.metrics else max(float(np.abs(value).max()), 1e-3)
        assert np.abs(apart[name] - value).max() <= TOLERANCE * scale, name


def shapes(stepping: Stepper, batch: Batch) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(array.shape) for _, array in tree_flatten(stepping.policy.arrays(batch)))


def test_every_method_is_tried() -> None:
    assert {kind.split()[0] for kind in KINDS} == METHODS.keys()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_parts_add_up_to_the_whole(kind: str, path: str) -> None:
    if path == "written out" and not runs_on_cpu():
        pytest.skip("written-out passes are for a CPU")
    stepping = stepper(kind, path)
    assert stepping.policy.is_written_out == (path == "written out")
    for batch in [*batches(kind, 4)[:3], batches(kind, 5)[-1]]:  # the last one is short
        assert len(halves(batch)) == min(len(rows_of(batch)), 2)
        assert_same_sums(stepping, batch)


@pytest.mark.parametrize("batch_size", [2, 3, 4, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_the_rows(kind: str, batch_size: int) -> None:
    for batch in batches(kind, batch_size):
        parts = halves(batch)
        for name in ("examples", "real_tokens", "supervised_tokens"):
            assert sum(getattr(part, name) for part in parts) == getattr(batch, name), name
        for part in parts:
            assert part.examples > 0
            assert part.supervised_tokens == part.mask.sum() <= part.target_slots <= batch.target_slots
            assert rows_of(part) <= rows_of(batch)
        assert set.union(*map(rows_of, parts)) == rows_of(batch)
        of_a_group = batch.group_size * (batch.tokens.shape[1] - 1)
        if len(parts) == 2:
            sizes = sorted(part.supervised_tokens for part in parts)
            assert sizes[1] - sizes[0] <= of_a_group
            assert all(2 * part.target_slots < batch.target_slots + of_a_group + 32 for part in parts)


def rows_of(batch: Batch) -> set[bytes]:
    """Groups of rows that are no padding, the rows of each one behind another."""
    joined = np.concatenate([batch.tokens, batch.mask.astype(np.int32), batch.segments], axis=1)
    groups = joined.reshape(batch.group_size, -1, joined.shape[1]).transpose(1, 0, 2)
    return {group.tobytes() for group in groups if group[:, -batch.segments.shape[1] :].any()}


@pytest.mark.parametrize("batch_size", [2, 3, 5, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_shape_of_a_plan_has_one_shape_of_parts(kind: str, batch_size: int) -> None:
    """As the model gets them where steps are compiled."""
    stepping = stepper(kind, "as compiled")
    found: dict[Any, set[Any]] = {}
    for batch in batches(kind, batch_size):
        planned = batch.tokens.shape, batch.target_slots, batch.prompt_slots, batch.response_slots
        found.setdefault(planned, set()).update(shapes(stepping, part) for part in halves(batch))
        assert {part.tokens.shape for part in halves(batch)} == {
            (batch.group_size * -(-batch_size // 2), batch.tokens.shape[1])
        }
    assert all(len(kinds) == 1 for kinds in found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_one_group_stays_whole(kind: str) -> None:
    for batch in batches(kind, 1):
        assert halves(batch) == (batch,) and halves(batch)[0] is batch


def test_a_part_that_is_padding_alone_is_left_out() -> None:
    batch = token_batch(np.random.default_rng(0), [[9], [], []], 12)
    (part,) = halves(batch)
    assert part.tokens.shape == (2, 12) and part.examples == 1
    assert part.real_tokens == 9 and np.array_equal(part.tokens[0], batch.tokens[0])
    nothing = token_batch(np.random.default_rng(0), [[], []], 12)
    assert halves(nothing) == (nothing,)


@pytest.mark.parametrize("path", PATHS)
def test_a_part_without_a_target_changes_nothing(path: str) -> None:
    batch = token_batch(np.random.default_rng(0), [[9], [12]], 12)
    batch.mask[0] = 0
    batch = replace(batch, supervised_tokens=int(batch.mask.sum()))
    assert sorted(part.supervised_tokens for part in halves(batch)) == [0, batch.supervised_tokens]
    assert_same_sums(stepper("sft", path), batch)


def test_the_worst_shares_of_targets_find_room() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        rows = int(random.integers(2, 9))
        batch = token_batch(random, [[20]] * rows, 20)
        kept = random.integers(0, 20, rows) * random.integers(0, 2, rows)
        mask = (np.arange(20) < 1 + kept[:, None]).astype(np.float32)
        mask[:, 0] = 0
        batch = replace(batch, mask=mask, supervised_tokens=int(mask.sum()), target_slots=int(mask.sum()))
        slots = {part.target_slots for part in halves(batch)}
        assert len(slots) == 1 and slots.pop() >= max(part.supervised_tokens for part in halves(batch))


def test_compiled_parts_add_up_and_compile_once() -> None:
    stepping = stepper("orpo", "as compiled", compile=True)
    batch = plan("orpo", 4).batch(0, 0)
    assert_same_sums(stepping, batch)
    assert not any(stepping.add(part, 1) for part in halves(batch))
    result = stepping.apply(0.1)
    stepping_whole = stepper("orpo", "as compiled", compile=True)
    stepping_whole.add(batch, 1)
    assert result.loss == pytest.approx(stepping_whole.apply(0.1).loss, rel=TOLERANCE)
    mx.eval(stepping.model.state)
