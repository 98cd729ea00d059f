"""The one training loop, for every method.

A step is one optimizer update. Everything a step depends on is a function of its number and of the
state in the last checkpoint: which rows it sees, its learning rate, its dropout. So a run that is cut
anywhere goes on from its checkpoint as if it had not been cut.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from bit_axon.backend import mx
from bit_axon.errors import NonFiniteLossError, ThermalShutdownError
from bit_axon.training.collate import Batch
from bit_axon.training.loop_state import LoopState
from bit_axon.training.position import Plan, Position
from bit_axon.training.prefetch import Prefetch
from bit_axon.training.records import Evaluation, EvaluationRecord, Observer, StepRecord
from bit_axon.training.stepper import Stepper, StepResult

StopReason = Literal[
    "max_steps", "time_limit", "early_stop", "interrupt", "thermal", "non_finite_loss", "storage"
]


class Gate(Protocol):
    """Thermal limits, as the loop asks for them."""

    @property
    def paused_seconds(self) -> float:
        """Time spent waiting so far."""

    def before_micro_batch(self, step: int) -> None:
        """Waits while it is too hot; raises `ThermalShutdownError` when it stays so."""

    def temperature(self) -> float | None:
        """The last reading in °C, if there is a sensor."""


class NoGate:
    """No thermal limits."""

    paused_seconds = 0.0

    def before_micro_batch(self, step: int) -> None:
        """Never waits."""

    def temperature(self) -> float | None:
        """Unknown."""
        return None


@dataclass(frozen=True)
class LoopLimits:
    """How long to train, and what happens on the way; all counts in optimizer updates."""

    max_steps: int
    grad_accum_steps: int
    micro_batches: int | None = None  # end of the last, shorter step when training by epochs
    eval_every: int = 0
    save_every: int = 0
    max_seconds: float | None = None
    early_stop_patience: int | None = None  # evaluations
    early_stop_min_delta: float = 0.0


@dataclass(frozen=True)
class LoopParts:
    """What the loop works with; everything is given, nothing is looked up."""

    stepper: Stepper
    plan: Plan
    learning_rate: Callable[[int], float]  # update number -> rate
    observer: Observer
    evaluate: Callable[[], Evaluation] | None = None
    save: Callable[[LoopState], None] = lambda state: None
    gate: Gate = field(default_factory=NoGate)
    stop_requested: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.perf_counter


class Loop:
    """Runs from `state` to a limit; `state` is updated in place and always describes the last update."""

    def __init__(self, parts: LoopParts, limits: LoopLimits, state: LoopState):
        self.parts, self.limits, self.state = parts, limits, state
        self._position = Position(parts.plan)
        self._started = parts.clock()  # of training: set again once the first evaluation is done
        self._saved_step = state.step

    def run(self) -> StopReason:
        """Trains to the end and returns why it ended; a checkpoint of the last update is saved.

        Raises:
            NonFiniteLossError: nothing is saved after the last good update.
            StorageError: a checkpoint could not be written.
        """
        if self.state.evaluated_step < 0:
            self._evaluate()
        self._started = self.parts.clock()
        with Prefetch(self.parts.plan) as batches:
            reason = self._train(batches)
        self._save()  # before the evaluation below: one that a cut brought about must not be remembered
        is_evaluated = self.state.evaluated_step >= self.state.step
        if reason in ("max_steps", "early_stop", "time_limit") and not is_evaluated:
            self._evaluate()
        return reason

    def _train(self, batches: Prefetch) -> StopReason:
        try:
            while (reason := self._reason_to_stop()) is None:
                if not self._step(batches):
                    return "interrupt"
                self._after_step()
        except ThermalShutdownError as error:
            self.parts.stepper.discard()
            self.parts.observer.on_message(str(error))
            return "thermal"
        return reason

    def _reason_to_stop(self) -> StopReason | None:
        state, limits = self.state, self.limits
        if state.step >= limits.max_steps:
            return "max_steps"
        if self.parts.stop_requested():
            return "interrupt"
        if limits.max_seconds is not None and self.parts.clock() - self._started >= limits.max_seconds:
            return "time_limit"
        patience = limits.early_stop_patience
        if patience is not None and state.evaluations_without_gain >= patience:
            return "early_stop"
        return None

    def _step(self, prefetch: Prefetch) -> bool:
        """One update; False when it was given up because a stop was requested."""
        state, parts = self.state, self.parts
        started, paused = parts.clock(), parts.gate.paused_seconds
        last = state.micro_batch + self.limits.grad_accum_steps
        if self.limits.micro_batches is not None:
            last = min(last, self.limits.micro_batches)
        end = last if state.step + 1 >= self.limits.max_steps else last + 1  # of what may be asked for
        batches, compiled = [], False
        for micro_batch in range(state.micro_batch, last):
            if parts.stop_requested():
                parts.stepper.discard()
                return False
            if not isinstance(parts.gate, NoGate):
                parts.stepper.wait()  # pauses and readings belong between micro-batches
                parts.gate.before_micro_batch(state.step + 1)
            batch = prefetch.batch(micro_batch, ahead=micro_batch + 1 < end)
            compiled = parts.stepper.add(batch, micro_batch) or compiled
            batches.append(batch)
        rate = parts.learning_rate(state.step + 1)
        result = parts.stepper.apply(rate)
        self._check_finite(result)
        seconds = parts.clock() - started - (parts.gate.paused_seconds - paused)
        self._count(batches, result, seconds, compiled=compiled or state.step == 0, micro_batch=last)
        parts.observer.on_step(self._record(batches, result, rate, seconds, compiled or state.step == 1))
        return True

    def _check_finite(self, result: StepResult) -> None:
        if not _is_finite(result.loss) or not _is_finite(result.grad_norm):
            kept = f"step {self._saved_step}" if self._saved_step else "none was saved yet"
            raise NonFiniteLossError(
                f"Step {self.state.step + 1}: the loss is {result.loss} and the gradient norm "
                f"{result.grad_norm}, so training stopped and nothing of it was saved. Last good "
                f"checkpoint: {kept}. Lower training.learning_rate, or look for broken rows."
            )

    def _count(
        self, batches: list[Batch], result: StepResult, seconds: float, *, compiled: bool, micro_batch: int
    ) -> None:
        state = self.state
        state.step += 1
        state.micro_batch = micro_batch
        state.epoch = self._position.epochs(micro_batch)
        state.loss, state.grad_norm, state.metrics = result.loss, result.grad_norm, result.metrics
        examples, tokens = sum(b.examples for b in batches), sum(b.real_tokens for b in batches)
        state.examples += examples
        state.tokens += tokens
        state.supervised_tokens += sum(b.supervised_tokens for b in batches)
        state.train_seconds += seconds
        if not compiled:
            state.measured_seconds += seconds
            state.measured_tokens += tokens
            state.measured_examples += examples

    def _record(
        self, batches: list[Batch], result: StepResult, rate: float, seconds: float, compiled: bool
    ) -> StepRecord:
        state = self.state
        return StepRecord(
            step=state.step,
            max_steps=self.limits.max_steps,
            epoch=state.epoch,
            loss=result.loss,
            learning_rate=rate,
            grad_norm=result.grad_norm,
            examples=sum(b.examples for b in batches),
            tokens=sum(b.real_tokens for b in batches),
            supervised_tokens=sum(b.supervised_tokens for b in batches),
            seconds=seconds,
            compiled=compiled,
            peak_memory_bytes=mx.get_peak_memory(),
            temp_c=self.parts.gate.temperature(),
            metrics=result.metrics,
        )

    def _after_step(self) -> None:
        step, limits = self.state.step, self.limits
        if limits.eval_every and step % limits.eval_every == 0:
            self._evaluate()
        if limits.save_every and step % limits.save_every == 0:
            self._save()

    def _evaluate(self) -> None:
        """Evaluates on the fixed set and updates the best loss; the training stream is not touched."""
        state, parts = self.state, self.parts
        if parts.evaluate is None:
            return
        started = parts.clock()
        result = parts.evaluate()
        seconds = parts.clock() - started
        state.eval_seconds += seconds
        state.eval_loss, state.eval_metrics, state.evaluated_step = result.loss, result.metrics, state.step
        if state.step == 0:
            state.eval_loss_before, state.eval_metrics_before = result.loss, result.metrics
        best = state.eval_loss_best
        gained = best is None or result.loss < best - self.limits.early_stop_min_delta
        state.evaluations_without_gain = 0 if gained else state.evaluations_without_gain + 1
        state.eval_loss_best = result.loss if best is None else min(best, result.loss)
        parts.observer.on_evaluation(
            EvaluationRecord(
                state.step, result.loss, state.eval_loss_best, result.examples, seconds, result.metrics
            )
        )

    def _save(self) -> None:
        if self._saved_step == self.state.step:
            return  # what is there is the same
        started = self.parts.clock()
        self.parts.save(self.state)
        self._saved_step = self.state.step
        self.state.save_seconds += self.parts.clock() - started


def _is_finite(value: float) -> bool:
    return value - value == 0
