"""Batches built ahead are the plan's own, and nothing of that is left behind."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_loop import plan, stepper

from bit_axon.errors import ThermalShutdownError
from bit_axon.evaluation.loss import evaluate_loss
from bit_axon.training.adapters import adapter_parameters
from bit_axon.training.batches import Batch
from bit_axon.training.cooling.gates import NoGate, Phase, nothing
from bit_axon.training.loop import Loop, LoopLimits, LoopParts
from bit_axon.training.loop_state import LoopState
from bit_axon.training.position import Plan
from bit_axon.training.prefetch import Prefetch
from bit_axon.training.session import SilentObserver
from bit_axon.training.stepper import Stepper

SECONDS = 300  # only what is broken takes as long


class Watched:
    """A plan that remembers what it was asked for, and fails at one place."""

    def __init__(self, of: Plan, broken: tuple[int, int] | None = None):
        self.of, self.broken = of, broken
        self.asked: list[tuple[int, int]] = []
        self.called = threading.Condition()

    def batches_in_epoch(self, epoch: int) -> int:
        return self.of.batches_in_epoch(epoch)

    def batch(self, epoch: int, index: int) -> Batch:
        with self.called:
            self.asked.append((epoch, index))
            self.called.notify_all()
        if (epoch, index) == self.broken:
            raise OSError("the disk is gone")
        return self.of.batch(epoch, index)

    def wait_for(self, place: tuple[int, int]) -> bool:
        with self.called:
            return self.called.wait_for(lambda: place in self.asked, SECONDS)


def batch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_the_same_batches_in_the_same_order_and_the_next_one_ahead() -> None:
    watched = Watched(plan("sft", 4))
    with Prefetch(watched) as batches:
        for number in range(7):
            found = batches.batch(number, ahead=True)
            following = divmod(number + 1, 3)
            assert watched.wait_for(following)  # nobody has asked for it yet
            expected = watched.of.batch(*divmod(number, 3))
            for name in ("tokens", "mask", "segments"):
                assert np.array_equal(getattr(found, name), getattr(expected, name))
        assert batches.batch(1, ahead=False).tokens.tolist() == watched.of.batch(0, 1).tokens.tolist()
    assert watched.asked == [divmod(number, 3) for number in range(8)] + [(0, 1)]
    assert not batch_threads()


def test_an_error_is_raised_where_its_batch_is_asked_for() -> None:
    watched = Watched(plan("sft", 4), broken=(0, 1))
    with pytest.raises(OSError, match="the disk is gone"), Prefetch(watched) as batches:
        batches.batch(0, ahead=True)
        assert watched.wait_for((0, 1))
        batches.batch(1, ahead=True)
    assert not batch_threads() and watched.asked == [(0, 0), (0, 1)]


def loop(
    stepping: Stepper, watched: Plan, state: LoopState, stop: Callable[[], bool] = lambda: False
) -> Loop:
    parts = LoopParts(
        stepping,
        watched,
        learning_rate=lambda step: 0.1,
        observer=SilentObserver(),
        stop_requested=stop,
        evaluate=lambda: evaluate_loss(stepping, plan("sft", 4)),
    )
    return Loop(parts, LoopLimits(max_steps=3, grad_accum_steps=2), state)


def test_a_loop_asks_for_what_it_needs_and_no_more(tiny_model: Path) -> None:
    watched = Watched(plan("sft", 4))
    assert loop(stepper(tiny_model, "sft"), watched, LoopState()).run() == "max_steps"
    assert watched.asked == [divmod(number, 3) for number in range(6)]
    assert not batch_threads()


def test_a_loop_that_fails_leaves_no_thread(tiny_model: Path) -> None:
    watched, state = Watched(plan("sft", 4), broken=(1, 1)), LoopState()
    with pytest.raises(OSError, match="the disk is gone"):
        loop(stepper(tiny_model, "sft"), watched, state).run()
    assert state.step == 2 and not batch_threads()


@pytest.mark.parametrize("compile", [False, True])
def test_a_stop_between_micro_batches_changes_nothing(compile: bool, tiny_model: Path) -> None:
    whole = stepper(tiny_model, "sft", compile=compile)
    loop(whole, plan("sft", 4), LoopState()).run()
    for cut in (1, 2, 3, 5):
        asked = iter(range(cut))
        stopped, state = stepper(tiny_model, "sft", compile=compile), LoopState()
        reason = loop(stopped, plan("sft", 4), state, lambda asked=asked: next(asked, None) is None).run()
        assert reason == "interrupt" and state.micro_batch == 2 * state.step and not batch_threads()
        loop(stopped, plan("sft", 4), state).run()
        for name, value in adapter_parameters(whole.model).items():
            assert np.array_equal(np.array(value), np.array(adapter_parameters(stopped.model)[name]))


def test_the_device_is_done_before_a_gate_is_asked(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Gate(NoGate):
        def check(
            self, phase: Phase, step: int, drain: Callable[[], None] = nothing, *, share: float = 1.0
        ) -> None:
            drain()
            calls.append("gate")
            if step == 2:
                raise ThermalShutdownError("too hot")

        def wait_until_cool(self) -> bool:
            return False

    stepping = stepper(tiny_model, "sft")
    wait, add = stepping.wait, stepping.add
    monkeypatch.setattr(stepping, "wait", lambda: (calls.append("wait"), wait())[1])
    monkeypatch.setattr(stepping, "add", lambda *of, **more: (calls.append("add"), add(*of, **more))[1])
    made = loop(stepping, plan("sft", 4), LoopState())
    made.parts = replace(made.parts, gate=Gate())
    assert made.run() == "thermal" and not batch_threads()
    assert calls.count("gate") == 3
    assert all(calls[place - 1] == "wait" for place, call in enumerate(calls) if call == "gate")


def test_an_evaluation_leaves_no_thread(tiny_model: Path) -> None:
    stepping, watched = stepper(tiny_model, "sft"), Watched(plan("sft", 4))
    result = evaluate_loss(stepping, watched, max_batches=2)
    assert result.examples == 8 and watched.asked == [(0, 0), (0, 1)] and not batch_threads()


def test_an_evaluation_asks_before_each_batch_and_may_be_stopped(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepping = stepper(tiny_model, "sft")
    stepping.model.train()
    calls: list[str] = []
    evaluated: list[int] = []  # how often it was asked before each batch
    evaluate = stepping.evaluate
    monkeypatch.setattr(
        stepping, "evaluate", lambda batch: (evaluated.append(len(calls)), evaluate(batch))[1]
    )
    asked = evaluate_loss(stepping, plan("sft", 4), between=lambda: calls.append("asked"))
    assert evaluated == [1, 2, 3] and len(calls) == 3
    assert asked == evaluate_loss(stepping, plan("sft", 4))

    def stop() -> None:
        if len(evaluated) == 7:
            raise ThermalShutdownError("too hot")

    with pytest.raises(ThermalShutdownError):
        evaluate_loss(stepping, plan("sft", 4), between=stop)
    assert len(evaluated) == 7 and not batch_threads() and stepping.model.training
