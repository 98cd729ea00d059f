"""The loop under a gate whose stops are written down: what is lost, what is done again, what is counted."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_loop import examples, pairs

from bit_axon.backend import Compilation, mx
from bit_axon.errors import StopRequestedError, ThermalShutdownError
from bit_axon.evaluation.loss import evaluate_loss
from bit_axon.models.loading import load_base
from bit_axon.models.policy import Policy
from bit_axon.profiling.clock import VirtualClock
from bit_axon.schema import AdapterConfig, ModelConfig, TrainingOptions
from bit_axon.training.adapters import attach_adapter
from bit_axon.training.checkpoint import (
    get_latest_checkpoint,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from bit_axon.training.collate import Batch, PairBatchPlan, TokenBatchPlan
from bit_axon.training.cooling.gates import NoGate, Phase, Rest, nothing
from bit_axon.training.loop import Loop, LoopLimits, LoopParts, StopReason
from bit_axon.training.loop_state import LoopState
from bit_axon.training.methods import build_method
from bit_axon.training.optimizers import build_optimizer
from bit_axon.training.position import Plan
from bit_axon.training.records import EvaluationRecord, StepRecord
from bit_axon.training.stepper import Stepper, micro_batch_seed

STEPS = 5
LIMITS = LoopLimits(STEPS, 3, eval_every=2, save_every=2)
CHECK_SECONDS, WORK_SECONDS = 5.0, 1.0

Place = tuple[Phase, int, int]  # phase, step and which of its checks, from 1 on
Check = tuple[Phase, int, float]  # phase, step and share of the work
PLACES: dict[str, Place] = {
    "the first evaluation": ("eval", 0, 2),
    "the first micro-batch of all": ("train", 1, 1),
    "micro-batch 2 of 3 before any checkpoint": ("train", 2, 2),
    "an evaluation at a step that saves": ("eval", 2, 2),
    "micro-batch 2 of 3": ("train", 3, 2),
    "the last micro-batch": ("train", STEPS, 3),
    "the last evaluation": ("eval", STEPS, 1),
}


class Scripted:
    """A gate that stops at given places, once each, and waits a while at every check.

    Args:
        stops: the places.
        cools: how many times `wait_until_cool` says yes.
        splits: from which step on batches are to be split.
        waiting: done while it waits to cool down.

    Attributes:
        clock: of the training; moved on by every check.
    """

    def __init__(
        self,
        *stops: Place,
        cools: int = 0,
        splits: int | None = None,
        waiting: Callable[[], None] = nothing,
    ):
        self._stops, self._cools, self._splits = set(stops), cools, splits
        self.clock, self._waiting = VirtualClock(), waiting
        self._place: tuple[Phase, int] = ("generate", -1)
        self._count = 0
        self.paused_seconds = 0.0
        self.checks: list[Check] = []
        self.drains: list[Callable[[], None]] = []
        self.coolings = 0
        self.rests: list[tuple[Rest, int]] = []
        self.told: list[tuple[int, int, int, Hashable, bool]] = []

    @property
    def splits_batches(self) -> bool:
        return self._splits is not None and len(self.told) + 1 >= self._splits

    def check(
        self, phase: Phase, step: int, drain: Callable[[], None] = nothing, *, share: float = 1.0
    ) -> None:
        self._count = self._count + 1 if self._place == (phase, step) else 1
        self._place = phase, step
        self.checks.append((phase, step, share))
        if drain is not nothing:
            drain()
            self.drains.append(drain)
        self.clock.advance(CHECK_SECONDS)
        self.paused_seconds += CHECK_SECONDS
        if (place := (phase, step, self._count)) in self._stops:
            self._stops.remove(place)
            self._place = "generate", -1  # what is done again is counted again
            raise ThermalShutdownError(f"too hot at {place}")

    def rest(self, phase: Rest, step: int) -> None:
        self.rests.append((phase, step))

    def after_step(
        self, step: int, tokens: int, tokens_total: int, shape: Hashable, *, compiled: bool
    ) -> Mapping[str, float]:
        self.told.append((step, tokens, tokens_total, shape, compiled))
        return {"temp_c": 70.0 + step, "duty": 0.5}

    def wait_until_cool(self) -> bool:
        self.coolings += 1
        self._waiting()
        return self.coolings <= self._cools


class Timed(Stepper):
    """Takes a second of the clock for each piece, and remembers the pieces."""

    clock: VirtualClock
    pieces: list[tuple[int, int, int]]

    def add(self, batch: Batch, micro_batch: int, *, piece: int = 0) -> bool:
        self.clock.advance(WORK_SECONDS)
        self.pieces.append((micro_batch, piece, len(batch.tokens)))
        return super().add(batch, micro_batch, piece=piece)


@dataclass
class Told:
    """An observer that keeps everything."""

    steps: list[StepRecord] = field(default_factory=list)
    evaluations: list[EvaluationRecord] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def on_step(self, record: StepRecord) -> None:
        self.steps.append(record)

    def on_evaluation(self, record: EvaluationRecord) -> None:
        self.evaluations.append(record)

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    @property
    def losses(self) -> list[tuple[int, float, float, dict[str, float]]]:
        """What of the steps does not depend on time."""
        return [(r.step, r.loss, r.grad_norm, dict(r.metrics)) for r in self.steps]

    @property
    def evaluated(self) -> list[EvaluationRecord]:
        """What of the evaluations does not depend on time."""
        return [replace(record, seconds=0.0) for record in self.evaluations]


@dataclass(frozen=True)
class Ended:
    """A training that is over, or was broken off."""

    reason: StopReason
    loop: Loop
    told: Told
    stepper: Timed
    folder: Path

    @property
    def state(self) -> dict[str, Any]:
        """All that is remembered but what was waited."""
        values = self.loop.state.to_dict().items()
        return {name: value for name, value in values if name not in ("paused_seconds", "save_seconds")}

    @property
    def saved_step(self) -> int:
        latest = get_latest_checkpoint(self.folder)
        return int(latest.name.removeprefix("step_")) if latest else 0

    @property
    def saved(self) -> dict[str, bytes]:
        """The last checkpoint's parameters and moments."""
        latest = get_latest_checkpoint(self.folder)
        assert latest is not None
        return {file.name: file.read_bytes() for file in latest.glob("*.safetensors")}


def plan_of(method: str, count: int, *, seed: int, shuffle: bool) -> Plan:
    common = {"batch_size": 2, "max_seq_len": 64, "pad_token_id": 0, "seed": seed, "shuffle": shuffle}
    if method == "orpo":
        return PairBatchPlan(pairs(count), **common)  # type: ignore[arg-type]
    return TokenBatchPlan(examples(count, seed), packing=False, eos_token_id=2, **common)  # type: ignore[arg-type]


def stepper_of(model_folder: Path, method: str, *, dropout: float, clock: VirtualClock) -> Timed:
    model = load_base(ModelConfig(path=str(model_folder)), seed=0).model
    attach_adapter(model, AdapterConfig(name="dora", rank=4, dropout=dropout), seed=0)
    made = Timed(
        Policy(model, packed=False, vocab_size=300),
        build_method({"name": method}),
        build_optimizer(TrainingOptions(), model),
        max_grad_norm=1.0,
        seed=0,
        compilation=Compilation(False, False),
    )
    made.clock, made.pieces = clock, []
    return made


def train(
    model_folder: Path,
    folder: Path,
    gate: Scripted | NoGate,
    *,
    method: str = "sft",
    dropout: float = 0.1,
    limits: LoopLimits = LIMITS,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Ended:
    """Trains from the newest checkpoint in `folder`, or from the beginning."""
    clock = gate.clock if isinstance(gate, Scripted) else VirtualClock()
    stepper = stepper_of(model_folder, method, dropout=dropout, clock=clock)
    valid, told, state = plan_of(method, 6, seed=9, shuffle=False), Told(), LoopState()
    if (latest := get_latest_checkpoint(folder)) is not None:
        load_checkpoint(stepper.model, stepper.optimizer, latest)
        state = LoopState.from_dict(read_state(latest)["loop"])

    def between() -> None:
        if stop_requested():
            raise StopRequestedError("asked for")
        gate.check("eval", state.step)

    def save(state: LoopState) -> None:
        kept = {"loop": state.to_dict()}
        save_checkpoint(stepper.model, stepper.optimizer, state.step, state.loss, folder, state=kept)

    parts = LoopParts(
        stepper=stepper,
        plan=plan_of(method, 14, seed=4, shuffle=True),
        learning_rate=lambda step: 1e-2 / step,
        observer=told,
        evaluate=lambda: evaluate_loss(stepper, valid, between=between),
        save=save,
        gate=gate,
        stop_requested=stop_requested,
        clock=clock.monotonic,
    )
    loop = Loop(parts, limits, state)
    return Ended(loop.run(), loop, told, stepper, folder)


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A training without any gate."""
    ended = train(tiny_model, tmp_path_factory.mktemp("whole"), NoGate())
    assert ended.reason == "max_steps" and [r.step for r in ended.told.evaluations] == [0, 2, 4, 5]
    return ended


@pytest.fixture(scope="module")
def waited(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scripted, Ended]:
    """A training that waits at every check and is never stopped."""
    gate = Scripted()
    return gate, train(tiny_model, tmp_path_factory.mktemp("waited"), gate)


# Stops


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_stop_ends_in_a_checkpoint_and_loses_nothing(
    place: Place, tiny_model: Path, tmp_path: Path, whole: Ended
) -> None:
    gate = Scripted(place)
    cut = train(tiny_model, tmp_path, gate)
    assert cut.reason == "thermal" and str(cut.loop.shutdown) == f"too hot at {place}"
    assert cut.told.messages == [f"too hot at {place}"] and gate.coolings == 1
    done = place[1] if place[0] == "eval" else place[1] - 1
    assert cut.saved_step == cut.loop.state.step == len(cut.told.steps) == done
    rest = train(tiny_model, tmp_path, Scripted())
    assert rest.reason == "max_steps" and rest.loop.shutdown is None
    assert rest.saved == whole.saved and rest.state == whole.state
    assert cut.told.losses + rest.told.losses == whole.told.losses
    evaluated = cut.told.evaluated if done else []  # what no checkpoint remembers is done again
    assert evaluated + rest.told.evaluated == whole.told.evaluated


def test_stops_that_wait_go_on_by_themselves(tiny_model: Path, tmp_path: Path, whole: Ended) -> None:
    """At every place of one training; what was done is saved before it waits."""
    saved_when_waiting: list[int] = []

    def look() -> None:
        latest = get_latest_checkpoint(tmp_path)
        saved_when_waiting.append(int(latest.name[5:]) if latest else 0)

    gate = Scripted(*PLACES.values(), cools=len(PLACES), waiting=look)
    ended = train(tiny_model, tmp_path, gate)
    assert ended.reason == "max_steps" and ended.loop.shutdown is None and gate.coolings == len(PLACES)
    assert saved_when_waiting == [step if phase == "eval" else step - 1 for phase, step, _ in PLACES.values()]
    assert ended.saved == whole.saved and ended.state == whole.state
    assert ended.told.losses == whole.told.losses
    assert ended.told.evaluated == whole.told.evaluated


def test_stop_after_stop_in_sessions_of_their_own(tiny_model: Path, tmp_path: Path, whole: Ended) -> None:
    sessions = [train(tiny_model, tmp_path, Scripted(place)) for place in PLACES.values()]
    last = train(tiny_model, tmp_path, Scripted())
    assert [session.reason for session in sessions] == ["thermal"] * len(PLACES)
    assert last.saved == whole.saved and last.state == whole.state
    found = [record for session in [*sessions[2:], last] for record in session.told.evaluated]
    assert found[0].step == 0 and found == whole.told.evaluated


def test_an_evaluation_that_was_made_after_a_wait_is_remembered(
    tiny_model: Path, tmp_path: Path, whole: Ended
) -> None:
    """It was broken off when its step was saved, then done; the stop after that ends the session."""
    cut = train(tiny_model, tmp_path, Scripted(("eval", 2, 2), ("train", 3, 2), cools=1))
    assert cut.reason == "thermal" and cut.saved_step == 2
    rest = train(tiny_model, tmp_path, Scripted())
    assert rest.saved == whole.saved
    assert cut.told.evaluated + rest.told.evaluated == whole.told.evaluated


def test_requested_stops_end_the_waiting(tiny_model: Path, tmp_path: Path, whole: Ended) -> None:
    """One in each session, at the next place; the session after it goes on from there."""
    for place in PLACES.values():
        requested: list[bool] = []
        gate = Scripted(place, waiting=partial(requested.append, True))
        cut = train(tiny_model, tmp_path, gate, stop_requested=partial(bool, requested))
        assert cut.reason == "interrupt" and gate.coolings == 1, place
        done = place[1] if place[0] == "eval" else place[1] - 1
        assert cut.saved_step == cut.loop.state.step == done, place
    rest = train(tiny_model, tmp_path, Scripted())
    assert rest.saved == whole.saved and rest.state == whole.state


def test_a_stop_requested_in_a_pause_is_heard_before_the_next_piece(
    tiny_model: Path, tmp_path: Path, whole: Ended
) -> None:
    gate = Scripted()
    asked: Check = ("train", 3, 1.0)
    cut = train(tiny_model, tmp_path, gate, stop_requested=lambda: gate.checks[-2:] == [asked, asked])
    assert cut.reason == "interrupt" and cut.loop.shutdown is None and gate.coolings == 0
    assert cut.saved_step == 2 and len(cut.stepper.pieces) == 7  # two steps, and one piece of the third
    rest = train(tiny_model, tmp_path, Scripted())
    assert rest.saved == whole.saved and rest.told.evaluated == whole.told.evaluated[2:]


@pytest.mark.parametrize("step", [0, 2, STEPS])
def test_a_stop_requested_in_an_evaluation_is_heard_before_its_next_batch(
    step: int, tiny_model: Path, tmp_path: Path, whole: Ended
) -> None:
    gate = Scripted()
    batch: Check = ("eval", step, 1.0)
    cut = train(tiny_model, tmp_path, gate, stop_requested=lambda: gate.checks[-2:] == [batch, batch])
    assert cut.reason == "interrupt" and gate.checks[-3:] != [batch] * 3
    assert cut.saved_step == cut.loop.state.step == step
    rest = train(tiny_model, tmp_path, Scripted())
    assert rest.saved == whole.saved and rest.state == whole.state
    assert cut.told.evaluated + rest.told.evaluated == whole.told.evaluated


def test_a_stop_leaves_no_half_of_a_step_behind(tiny_model: Path, tmp_path: Path, whole: Ended) -> None:
    """The sums of the pieces before the stop are gone, and the device is done with them."""
    cut = train(tiny_model, tmp_path, Scripted(("train", 3, 3)))
    loss, weight, metrics, gradients = cut.stepper._sums
    assert loss.item() == weight.item() == 0.0 and not any(m.item() for m in metrics.values())
    assert all(not mx.any(gradient).item() for gradient in gradients.values())


# What the gate is asked


def test_the_gate_is_asked_before_every_piece_of_work(waited: tuple[Scripted, Ended]) -> None:
    gate, ended = waited
    expected = [("eval", 0, 1.0)] * 3
    for step in range(1, STEPS + 1):
        expected += [("train", step, 1.0)] * 3
        expected += [("eval", step, 1.0)] * (3 if step in (2, 4, 5) else 0)
    assert gate.checks == expected
    assert gate.drains == [ended.stepper.wait] * 3 * STEPS  # after an evaluated batch the device is at rest


def test_the_gate_is_told_of_every_step(waited: tuple[Scripted, Ended]) -> None:
    gate, ended = waited
    assert [told[:2] for told in gate.told] == [(r.step, r.tokens) for r in ended.told.steps]
    totals = list(accumulate(record.tokens for record in ended.told.steps))
    assert [told[2] for told in gate.told] == totals and totals[-1] == ended.loop.state.tokens
    assert gate.rests == [("save", 2), ("save", 4), ("save", 5)]
    assert [compiled for *_, compiled in gate.told] == [True, False, False, False, False]
    shapes = [shape for *_, shape, _ in gate.told]
    assert all(isinstance(shape, tuple) and [rows for rows, _ in shape] == [2, 2, 2] for shape in shapes)


def test_records_carry_what_is_known(waited: tuple[Scripted, Ended], whole: Ended) -> None:
    _, ended = waited
    assert [record.thermal for record in ended.told.steps] == [
        {"temp_c": 70.0 + step, "duty": 0.5} for step in range(1, STEPS + 1)
    ]
    assert [record.temp_c for record in ended.told.steps] == [71.0, 72.0, 73.0, 74.0, 75.0]
    assert {record.temp_c for record in whole.told.steps} == {None}


# Time


def test_waiting_is_in_no_figure_of_speed(waited: tuple[Scripted, Ended]) -> None:
    gate, ended = waited
    state = ended.loop.state
    assert [record.seconds for record in ended.told.steps] == pytest.approx([3 * WORK_SECONDS] * STEPS)
    assert [record.paused_seconds for record in ended.told.steps] == pytest.approx(
        [3 * CHECK_SECONDS] * STEPS
    )
    assert [record.seconds for record in ended.told.evaluations] == pytest.approx([0.0] * 4)
    assert state.train_seconds == pytest.approx(STEPS * 3 * WORK_SECONDS)
    assert state.measured_seconds == pytest.approx((STEPS - 1) * 3 * WORK_SECONDS)
    assert state.eval_seconds == pytest.approx(0.0)
    assert state.paused_seconds == pytest.approx((STEPS * 3 + 4 * 3) * CHECK_SECONDS)
    assert gate.clock.monotonic() == pytest.approx(state.train_seconds + state.paused_seconds)


def test_waiting_of_several_sessions_adds_up(tiny_model: Path, tmp_path: Path) -> None:
    """That for the piece which was given up too."""
    totals = []
    for gate in (Scripted(("train", 4, 2)), Scripted()):
        totals.append(train(tiny_model, tmp_path, gate).loop.state.paused_seconds)
    assert totals == pytest.approx([(3 * 3 + 2 * 3 + 2) * CHECK_SECONDS, (5 * 3 + 4 * 3 + 2) * CHECK_SECONDS])


def test_a_limit_of_time_counts_what_was_waited(tiny_model: Path, tmp_path: Path) -> None:
    """It says when a run is to be over, not how much is to be done."""
    limits = replace(LIMITS, max_seconds=3 * (CHECK_SECONDS + WORK_SECONDS) + 1.0)
    ended = train(tiny_model, tmp_path, Scripted(), limits=limits)
    assert ended.reason == "time_limit" and ended.loop.state.step == 2


# Smaller pieces


@pytest.mark.parametrize("method", ["sft", "orpo"])
def test_split_batches_change_rounding_alone(method: str, tiny_model: Path, tmp_path: Path) -> None:
    plain = train(tiny_model, tmp_path / "plain", Scripted(), method=method, dropout=0.0)
    gate = Scripted(splits=2)
    split = train(tiny_model, tmp_path / "split", gate, method=method, dropout=0.0)
    assert split.reason == "max_steps"
    for one, other in zip(plain.told.steps, split.told.steps, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
        assert (one.tokens, one.supervised_tokens, one.examples) == (
            other.tokens,
            other.supervised_tokens,
            other.examples,
        )
    assert plain.loop.state.eval_loss == pytest.approx(split.loop.state.eval_loss, rel=1e-5)
    rows = 4 if method == "orpo" else 2
    assert split.stepper.pieces[:5] == [
        (0, 0, rows),
        (1, 0, rows),
        (2, 0, rows),
        (3, 0, rows // 2),
        (3, 1, rows // 2),
    ]
    assert [piece for piece in split.stepper.pieces if piece[0] < 3] == plain.stepper.pieces[:3]
    assert {share for phase, step, share in gate.checks if phase == "train" and step >= 2} == {0.5}
    assert {share for phase, step, share in gate.checks if phase == "eval" or step < 2} == {1.0}


def test_one_row_is_not_split(tiny_model: Path, tmp_path: Path) -> None:
    """The last batch of an epoch may be short; its share of the work is whole."""
    ended = train(tiny_model, tmp_path, Scripted(splits=1), limits=LoopLimits(3, 1))
    stepper = ended.stepper
    assert [piece for _, piece, _ in stepper.pieces] == [0, 1] * 3
    parts = replace(ended.loop.parts, plan=_Rows(ended.loop.parts.plan), gate=Scripted(splits=1))
    stepper.pieces.clear()
    assert Loop(parts, LoopLimits(1, 1), LoopState(evaluated_step=0)).run() == "max_steps"
    assert stepper.pieces == [(0, 0, 1)]
    assert [check for check in parts.gate.checks if check[0] == "train"] == [("train", 1, 1.0)]  # type: ignore[attr-defined]


class _Rows:
    """A plan's batches with their first row alone."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def batches_in_epoch(self, epoch: int) -> int:
        return self._plan.batches_in_epoch(epoch)

    def batch(self, epoch: int, index: int) -> Batch:
        batch = self._plan.batch(epoch, index)
        kept = {name: getattr(batch, name)[:1] for name in ("tokens", "mask", "segments")}
        real, supervised = int((kept["segments"] > 0).sum()), int(kept["mask"].sum())
        return replace(batch, **kept, examples=1, real_tokens=real, supervised_tokens=supervised)


def test_the_parts_of_a_micro_batch_draw_their_own_dropout(tiny_model: Path) -> None:
    seeds = [micro_batch_seed(0, micro_batch, piece) for micro_batch in range(50) for piece in (0, 1)]
    assert len(set(seeds)) == 100
    assert micro_batch_seed(7, 3) == micro_batch_seed(7, 3, 0)  # a whole one is as it always was
    words = np.random.SeedSequence([7, 1, 3])
    assert micro_batch_seed(7, 3) == int(words.generate_state(1)[0])
    stepper = stepper_of(tiny_model, "sft", dropout=0.3, clock=VirtualClock())
    for layer in stepper.model.modules():  # zero factors would hide the dropout
        if "lora_b" in layer:
            layer.lora_b = 0.1 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(1))
    batch = plan_of("sft", 6, seed=9, shuffle=False).batch(0, 0)
    losses = []
    for piece in (0, 1, 0, 1):
        stepper.add(batch, 3, piece=piece)
        losses.append(stepper._sums[0].item())
        stepper.discard()
    assert losses[0] == losses[2] and losses[1] == losses[3] and losses[0] != losses[1]


def test_a_stop_between_the_parts_of_a_micro_batch(tiny_model: Path, tmp_path: Path) -> None:
    """It is the step that is done again, from its first part on."""
    whole = train(tiny_model, tmp_path / "whole", Scripted(splits=1))
    cut = train(tiny_model, tmp_path / "cut", Scripted(("train", 3, 4), splits=1))
    assert cut.reason == "thermal" and cut.saved_step == 2
    rest = train(tiny_model, tmp_path / "cut", Scripted(splits=1))
    assert rest.saved == whole.saved and rest.told.evaluated == whole.told.evaluated[2:]
