"""The one training loop, for every method.

A step is one optimizer update. Everything a step depends on is a function of its number and of the
state in the last checkpoint: which rows it sees, its learning rate, its dropout. So a run that is cut
anywhere goes on from its checkpoint as if it had not been cut.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from bit_axon.backend import mx
from bit_axon.errors import NonFiniteLossError, StopRequestedError, ThermalShutdownError
from bit_axon.training.cooling.gates import Gate, NoGate, until_cool
from bit_axon.training.loop_state import LoopState
from bit_axon.training.position import Plan, Position
from bit_axon.training.prefetch import Prefetch
from bit_axon.training.records import Evaluation, EvaluationRecord, Observer, StepRecord
from bit_axon.training.splitting import halves
from bit_axon.training.stepper import Stepper, StepResult
from bit_axon.training.work import StepWork

StopReason = Literal[
    "max_steps", "time_limit", "early_stop", "pruned", "interrupt", "thermal", "non_finite_loss", "storage"
]


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
    pruned: Callable[[], bool] = lambda: False  # asked after each update and evaluation
    clock: Callable[[], float] = time.perf_counter


class Loop:
    """Runs from `state` to a limit; `state` is updated in place and always describes the last update."""

    def __init__(self, parts: LoopParts, limits: LoopLimits, state: LoopState):
        self.parts, self.limits, self.state = parts, limits, state
        self._position = Position(parts.plan)
        self._started = parts.clock()  # of training: set again once the first evaluation is done
        self._saved = state.step, state.evaluated_step
        self._paused_before = state.paused_seconds - parts.gate.paused_seconds  # in earlier sessions
        self.shutdown: ThermalShutdownError | None = None  # what ended a run whose reason is "thermal"

    def run(self) -> StopReason:
        """Trains to the end and returns why it ended; a checkpoint of the last update is saved.

        Raises:
            NonFiniteLossError: nothing is saved after the last good update.
            StorageError: a checkpoint could not be written.
        """
        reason = self._within_limits(self._evaluate_first)
        if reason is None:
            self._started = self.parts.clock()
            with Prefetch(self.parts.plan) as batches:
                reason = self._within_limits(lambda: self._train(batches))
        assert reason is not None
        self._save()  # before the evaluation below: one that a cut brought about must not be remembered
        if reason in ("max_steps", "early_stop", "time_limit"):
            reason = self._within_limits(self._evaluate_last) or reason
        self.state.paused_seconds = self._paused_before + self.parts.gate.paused_seconds
        return reason

    def _within_limits(self, work: Callable[[], StopReason | None]) -> StopReason | None:
        """Does `work`; what the thermal limits broke off is done again, if the run may wait for that."""

        def on_stop(error: ThermalShutdownError) -> None:
            self.parts.stepper.discard()
            self._save()
            self.parts.observer.on_message(str(error))

        try:
            return until_cool(self.parts.gate, work, on_stop)
        except StopRequestedError:
            self.parts.stepper.discard()
            return "interrupt"
        except ThermalShutdownError as error:
            self.shutdown = error
            return "interrupt" if self.parts.stop_requested() else "thermal"

    def _train(self, batches: Prefetch) -> StopReason:
        """Updates until there is a reason to stop; may be called again after it was broken off anywhere."""
        while True:
            self._catch_up()
            if (reason := self._reason_to_stop()) is not None:
                return reason
            if not self._step(batches):
                return "interrupt"

    def _reason_to_stop(self) -> StopReason | None:
        state, limits = self.state, self.limits
        if state.step >= limits.max_steps:
            return "max_steps"
        if self.parts.stop_requested():
            return "interrupt"
        if self.parts.pruned():
            return "pruned"
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
            batch = prefetch.batch(micro_batch, ahead=micro_batch + 1 < end)
            pieces = halves(batch) if parts.gate.splits_batches else (batch,)
            for number, piece in enumerate(pieces):
                parts.gate.check("train", state.step + 1, parts.stepper.wait, share=1 / len(pieces))
                if parts.stop_requested():
                    parts.stepper.discard()
                    return False
                compiled = parts.stepper.add(piece, micro_batch, piece=number) or compiled
            batches.append(batch)
        rate = parts.learning_rate(state.step + 1)
        result = parts.stepper.apply(rate)
        self._check_finite(result)
        paused = parts.gate.paused_seconds - paused
        seconds = parts.clock() - started - paused
        self._finish_step(
            StepWork.of(batches), result, rate, seconds, paused, compiled=compiled, micro_batch=last
        )
        return True

    def _check_finite(self, result: StepResult) -> None:
        if not _is_finite(result.loss) or not _is_finite(result.grad_norm):
            kept = f"step {self._saved[0]}" if self._saved[0] else "none was saved yet"
            raise NonFiniteLossError(
                f"Step {self.state.step + 1}: the loss is {result.loss} and the gradient norm "
                f"{result.grad_norm}, so training stopped and nothing of it was saved. Last good "
                f"checkpoint: {kept}. Lower training.learning_rate, or look for broken rows."
            )

    def _finish_step(
        self,
        work: StepWork,
        result: StepResult,
        rate: float,
        seconds: float,
        paused_seconds: float,
        *,
        compiled: bool,
        micro_batch: int,
    ) -> None:
        state, parts = self.state, self.parts
        compiled = compiled or state.step == 0
        state.step += 1
        state.micro_batch, state.epoch = micro_batch, self._position.epochs(micro_batch)
        state.loss, state.grad_norm, state.metrics = result.loss, result.grad_norm, result.metrics
        state.count(work.examples, work.tokens, work.supervised_tokens, seconds, compiled=compiled)
        thermal = parts.gate.after_step(state.step, work.tokens, state.tokens, work.shape, compiled=compiled)
        parts.observer.on_step(
            StepRecord(
                step=state.step,
                max_steps=self.limits.max_steps,
                epoch=state.epoch,
                loss=result.loss,
                learning_rate=rate,
                grad_norm=result.grad_norm,
                examples=work.examples,
                tokens=work.tokens,
                supervised_tokens=work.supervised_tokens,
                seconds=seconds,
                compiled=compiled,
                peak_memory_bytes=mx.get_peak_memory(),
                paused_seconds=paused_seconds,
                metrics=result.metrics,
                thermal=thermal,
            )
        )

    def _catch_up(self) -> None:
        """Evaluates and saves what is due after the last update and was not done yet."""
        step, limits = self.state.step, self.limits
        if not step:
            return
        if limits.eval_every and step % limits.eval_every == 0 and self.state.evaluated_step < step:
            self._evaluate()
        if limits.save_every and step % limits.save_every == 0:
            self._save()

    def _evaluate_first(self) -> None:
        if self.state.evaluated_step < 0:
            self._evaluate()

    def _evaluate_last(self) -> None:
        if self.state.evaluated_step < self.state.step:
            self._evaluate()

    def _evaluate(self) -> None:
        """Evaluates on the fixed set and updates the best loss; the training stream is not touched."""
        state, parts = self.state, self.parts
        if parts.evaluate is None:
            return
        started, paused = parts.clock(), parts.gate.paused_seconds
        result = parts.evaluate()
        paused = parts.gate.paused_seconds - paused
        seconds = parts.clock() - started - paused
        state.note_evaluation(
            result.loss, result.metrics, seconds, min_delta=self.limits.early_stop_min_delta
        )
        assert state.eval_loss_best is not None
        parts.observer.on_evaluation(
            EvaluationRecord(
                state.step, result.loss, state.eval_loss_best, result.examples, seconds, result.metrics
            )
        )

    def _save(self) -> None:
        now = self.state.step, self.state.evaluated_step
        if self._saved == now or not self.state.step:
            return  # what is there is the same
        self.parts.gate.rest("save", self.state.step)
        self.state.paused_seconds = self._paused_before + self.parts.gate.paused_seconds
        started = self.parts.clock()
        self.parts.save(self.state)
        self._saved = now
        self.state.save_seconds += self.parts.clock() - started


def _is_finite(value: float) -> bool:
    return value - value == 0
