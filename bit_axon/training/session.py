"""What `Trainer` and `ORPOTrainer` share: from a model, a data set and a flat config to the one loop."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import mlx.nn as nn
import numpy as np

from bit_axon.backend import detect, memory_limits
from bit_axon.data.examples import Example
from bit_axon.errors import DataError, problem
from bit_axon.evaluation.loss import evaluate_loss
from bit_axon.models.modes import in_mode
from bit_axon.models.padded import packing_is_exact
from bit_axon.models.policy import Policy
from bit_axon.schema import TrainingOptions
from bit_axon.training.checkpoint import (
    get_latest_checkpoint,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from bit_axon.training.config import TrainingConfig, to_run_values
from bit_axon.training.cooling import CoolingScheduler
from bit_axon.training.cooling.gates import Gate, NoGate, Phase, Rest, nothing
from bit_axon.training.loop import Loop, LoopLimits, LoopParts
from bit_axon.training.loop_state import LoopState
from bit_axon.training.methods import Method, build_method
from bit_axon.training.optimizers import build_optimizer
from bit_axon.training.position import Plan
from bit_axon.training.records import EvaluationRecord, Observer, StepRecord
from bit_axon.training.scheduler import learning_rate_at
from bit_axon.training.stepper import Stepper
from bit_axon.validation import check


class Cooling(Protocol):
    """What the trainers need of a cooling scheduler (`bit_axon.training.cooling`)."""

    @property
    def total_pause_time(self) -> float:
        """Seconds spent in thermal pauses."""

    def check_before_step(self, step: int) -> None:
        """Waits while it is hot; raises `ThermalShutdownError` above the stop temperature."""


class _CoolingGate:
    """Anything that can be asked before a step, as the loop's gate."""

    splits_batches = False

    def __init__(self, cooling: Cooling):
        self._cooling = cooling

    @property
    def paused_seconds(self) -> float:
        return self._cooling.total_pause_time

    def check(
        self, phase: Phase, step: int, drain: Callable[[], None] = nothing, *, share: float = 1.0
    ) -> None:
        drain()  # nobody knows beforehand whether it will wait
        self._cooling.check_before_step(step)

    def rest(self, phase: Rest, step: int) -> None:
        """It does not want to know."""

    def after_step(
        self, step: int, tokens: int, tokens_total: int, shape: Hashable, *, compiled: bool
    ) -> Mapping[str, float]:
        return {}

    def wait_until_cool(self) -> bool:
        return False


def _gate_of(cooling: Cooling | None) -> Gate:
    if cooling is None:
        return NoGate()
    return cooling.gate if isinstance(cooling, CoolingScheduler) else _CoolingGate(cooling)


class SilentObserver:
    """Hears everything and says nothing."""

    def on_step(self, record: StepRecord) -> None:
        """Nothing."""

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """Nothing."""

    def on_message(self, text: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class ExampleKind:
    """What differs between the trainers: what an example is, and how examples become batches."""

    options: Callable[[TrainingConfig], dict[str, Any]]  # of the method, as the composed config has them
    packs: bool
    example: Callable[[Any], Any]  # an item of the data set -> Example or PairExample
    sides: Callable[[Any], Sequence[Example]]  # the sequences of an example; each must have a target
    plan: Callable[[Sequence[Any], TrainingConfig, bool, bool], Plan]  # examples, config, packed, training


class Session:
    """One training through the Python API; a subclass says what its examples are.

    Args:
        model: any mlx-lm model; its trainable parameters are trained.
        config: hyper-parameters.
        dataset: yields what the subclass trains on.
        val_dataset: the same, for evaluation every `eval_every` steps and at the end.
        cooling_scheduler: asked before every micro-batch.
        observer: is told of every step and evaluation.
    """

    _kind: ClassVar[ExampleKind]

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        dataset: Iterable[Any],
        val_dataset: Iterable[Any] | None = None,
        cooling_scheduler: Cooling | None = None,
        observer: Observer | None = None,
    ):
        self._model, self._config = model, config
        self._dataset, self._val_dataset = dataset, val_dataset
        self._gate = _gate_of(cooling_scheduler)
        self._observer: Observer = observer if observer is not None else SilentObserver()
        self._loop: Loop | None = None

    def setup(self) -> None:
        """Builds optimizer, schedule and batches; resumes from the newest checkpoint in `output_dir`.

        `train` calls it when it was not called before.

        Raises:
            DataError: the data set is empty or smaller than a batch.
            ModelError: the checkpoint belongs to another model.
        """
        config, kind = self._config, self._kind
        options = check(TrainingOptions, to_run_values(config)["training"])
        examples = self._examples(self._dataset)
        held_out = self._examples(self._val_dataset) if self._val_dataset is not None else None
        vocab_size = 1 + max(int(side.token_ids.max()) for item in examples for side in kind.sides(item))
        packed = kind.packs and packing_is_exact(self._model, vocab_size)
        optimizer = build_optimizer(options, self._model)
        state = LoopState()
        latest = get_latest_checkpoint(config.output_dir)
        if latest is not None:
            step, loss = load_checkpoint(self._model, optimizer, latest)
            saved = read_state(latest).get("loop")
            state = LoopState.from_dict(saved) if saved else LoopState(step=step, loss=loss)
        compilation = detect().compilation(None)
        stepper = Stepper(
            Policy(self._model, packed=packed, vocab_size=vocab_size, compiled=compilation.step),
            self._method(),
            optimizer,
            max_grad_norm=options.max_grad_norm,
            seed=config.seed,
            compilation=compilation,
        )
        plan = kind.plan(examples, config, packed, True)
        valid = None if held_out is None else kind.plan(held_out, config, packed, False)
        self._loop = Loop(self._parts(stepper, plan, valid, state), self._limits(), state)

    def train(self) -> dict[str, Any]:
        """Trains to `max_steps`; returns the last step's `step`, `loss`, `grad_norm` and method's metrics.

        Raises:
            ThermalShutdownError: too hot; a checkpoint was saved first.
            NonFiniteLossError: the loss became NaN or infinite.
        """
        if self._loop is None:
            self.setup()
        loop, self._loop = self._loop, None
        assert loop is not None
        with in_mode(self._model, training=True), memory_limits(None, None):
            try:
                reason = loop.run()
            finally:
                self._gate.rest("idle", loop.state.step)
        if reason == "thermal" and loop.shutdown is not None:
            raise loop.shutdown
        state = loop.state
        result = {"step": state.step, "loss": state.loss, "grad_norm": state.grad_norm, **state.metrics}
        return result if state.eval_loss is None else {**result, "eval_loss": state.eval_loss}

    def _method(self) -> Method:
        return build_method(self._kind.options(self._config))

    def _examples(self, dataset: Iterable[Any]) -> Sequence[Any]:
        found = [self._kind.example(item) for item in dataset]
        end = self._config.max_seq_len  # what lies beyond is cut
        trained = [e for e in found if all(side.loss_mask[1:end].any() for side in self._kind.sides(e))]
        if not trained:
            got = f"{len(found)} rows, none of which has one" if found else "an empty data set"
            raise DataError(problem("examples with a token to learn", got, "Check the data and max_seq_len."))
        return trained

    def _parts(self, stepper: Stepper, plan: Plan, valid: Plan | None, state: LoopState) -> LoopParts:
        config, gate = self._config, self._gate

        def between() -> None:
            gate.check("eval", state.step)

        def save(state: LoopState) -> None:
            extra = {"loop": state.to_dict(), "seed": config.seed}
            folder = Path(config.output_dir)
            save_checkpoint(self._model, stepper.optimizer, state.step, state.loss, folder, state=extra)

        return LoopParts(
            stepper=stepper,
            plan=plan,
            learning_rate=lambda step: learning_rate_at(
                step,
                peak=config.learning_rate,
                minimum=0.0,
                warmup_steps=config.warmup_steps,
                max_steps=config.max_steps,
            ),
            observer=self._observer,
            evaluate=None if valid is None else lambda: evaluate_loss(stepper, valid, between=between),
            save=save,
            gate=gate,
        )

    def _limits(self) -> LoopLimits:
        config = self._config
        return LoopLimits(
            max_steps=config.max_steps,
            grad_accum_steps=config.grad_accum_steps,
            eval_every=config.eval_every,
            save_every=config.save_every,
        )


def example_of(token_ids: Any, loss_mask: Any) -> Example:
    """Any integer sequences as an `Example`."""
    return Example(np.asarray(token_ids, np.int32), np.asarray(loss_mask, np.uint8))
