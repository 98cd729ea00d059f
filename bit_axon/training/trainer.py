"""The Python API for supervised fine-tuning, over the one loop."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.nn as nn
import numpy as np

from bit_axon.backend import detect, mx
from bit_axon.data.examples import Example
from bit_axon.errors import DataError, ThermalShutdownError, problem
from bit_axon.evaluation.loss import evaluate_loss
from bit_axon.models.policy import Policy, packing_is_exact
from bit_axon.schema import TrainingOptions
from bit_axon.training.checkpoint import (
    get_latest_checkpoint,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from bit_axon.training.collate import TokenBatchPlan
from bit_axon.training.config import TrainingConfig, to_run_values
from bit_axon.training.loop import Gate, Loop, LoopLimits, LoopParts, NoGate
from bit_axon.training.loop_state import LoopState
from bit_axon.training.methods import Method, build_method
from bit_axon.training.optimizers import build_optimizer
from bit_axon.training.position import Plan
from bit_axon.training.records import EvaluationRecord, Observer, StepRecord
from bit_axon.training.scheduler import learning_rate_at
from bit_axon.training.stepper import Stepper
from bit_axon.validation import check

_SEPARATOR_ID = 0  # between packed examples: never a target and seen by nothing, so any id will do


class Cooling(Protocol):
    """What the trainers need of a cooling scheduler (`bit_axon.training.cooling`)."""

    @property
    def total_pause_time(self) -> float:
        """Seconds spent in thermal pauses."""

    def check_before_step(self, step: int) -> None:
        """Waits while it is hot; raises `ThermalShutdownError` above the stop temperature."""


class _CoolingGate:
    """A cooling scheduler as the loop's gate."""

    def __init__(self, cooling: Cooling):
        self._cooling = cooling
        self.shutdown: ThermalShutdownError | None = None

    @property
    def paused_seconds(self) -> float:
        return self._cooling.total_pause_time

    def before_micro_batch(self, step: int) -> None:
        try:
            self._cooling.check_before_step(step)
        except ThermalShutdownError as error:
            self.shutdown = error
            raise

    def temperature(self) -> float | None:
        return None


class SilentObserver:
    """Hears everything and says nothing."""

    def on_step(self, record: StepRecord) -> None:
        """Nothing."""

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """Nothing."""

    def on_message(self, text: str) -> None:
        """Nothing."""


class Trainer:
    """Supervised fine-tuning of a model whose adapters are attached (`apply_lora_to_model`).

    Args:
        model: any mlx-lm model; its trainable parameters are trained.
        config: hyper-parameters.
        dataset: yields `(token_ids, loss_mask)`.
        val_dataset: the same, for evaluation every `eval_every` steps and at the end.
        cooling_scheduler: asked before every micro-batch.
        observer: is told of every step and evaluation.
    """

    _mode = "sft"

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        dataset: Iterable[Any],
        val_dataset: Iterable[Any] | None = None,
        cooling_scheduler: Cooling | None = None,
        observer: Observer | None = None,
    ):
        self.model, self.config = model, config
        self._dataset, self._val_dataset = dataset, val_dataset
        self._gate: Gate = _CoolingGate(cooling_scheduler) if cooling_scheduler is not None else NoGate()
        self._observer: Observer = observer if observer is not None else SilentObserver()
        self._loop: Loop | None = None

    def setup(self) -> None:
        """Builds optimizer, schedule and batches; resumes from the newest checkpoint in `output_dir`.

        Raises:
            DataError: the data set is empty or smaller than a batch.
            ModelError: the checkpoint belongs to another model.
        """
        options = check(TrainingOptions, to_run_values(self.config)["training"])
        method = self._method()
        mx.random.seed(self.config.seed)
        examples = self._examples(self._dataset)
        held_out = self._examples(self._val_dataset) if self._val_dataset is not None else []
        largest_id = _largest_id(examples)
        packed = self._packs(largest_id + 1)
        policy = Policy(self.model, packed=packed, vocab_size=largest_id + 1)
        optimizer = build_optimizer(options, self.model)
        state = LoopState()
        latest = get_latest_checkpoint(self.config.output_dir)
        if latest is not None:
            step, loss = load_checkpoint(self.model, optimizer, latest)
            saved = read_state(latest).get("loop")
            state = LoopState.from_dict(saved) if saved else LoopState(step=step, loss=loss)
        stepper = Stepper(
            policy,
            method,
            optimizer,
            max_grad_norm=options.max_grad_norm,
            seed=self.config.seed,
            compile=detect().compiles,
        )
        plan = self._plan(examples, policy, training=True)
        valid = self._plan(held_out, policy, training=False) if held_out else None
        self._loop = Loop(self._parts(stepper, plan, valid), self._limits(), state)

    def train(self) -> dict[str, Any]:
        """Trains to `max_steps`; returns `step`, `loss`, `grad_norm` and the method's metrics.

        Raises:
            ThermalShutdownError: too hot; a checkpoint was saved first.
            NonFiniteLossError: the loss became NaN or infinite.
        """
        if self._loop is None:
            self.setup()
        loop = self._loop
        assert loop is not None
        reason = loop.run()
        self._loop = None
        if reason == "thermal" and isinstance(self._gate, _CoolingGate) and self._gate.shutdown:
            raise self._gate.shutdown
        state = loop.state
        result = {"step": state.step, "loss": state.loss, "grad_norm": state.grad_norm, **state.metrics}
        return result if state.eval_loss is None else {**result, "eval_loss": state.eval_loss}

    def _method(self) -> Method:
        return build_method(to_run_values(self.config)["method"] | {"name": self._mode})

    def _examples(self, dataset: Iterable[Any]) -> Sequence[Any]:
        found = [_example(ids, mask) for ids, mask in dataset]
        return _not_empty([example for example in found if example.loss_mask[1:].any()], len(found))

    def _packs(self, vocab_size: int) -> bool:
        return packing_is_exact(self.model, vocab_size)

    def _plan(self, examples: Sequence[Any], policy: Policy, *, training: bool) -> Plan:
        return TokenBatchPlan(
            examples,
            batch_size=self.config.batch_size,
            max_seq_len=self.config.max_seq_len,
            packing=policy.packed,
            eos_token_id=_SEPARATOR_ID,
            pad_token_id=0,
            seed=self.config.seed,
            shuffle=training,
            require_full_batch=training,
        )

    def _parts(self, stepper: Stepper, plan: Plan, valid: Plan | None) -> LoopParts:
        config = self.config

        def save(state: LoopState) -> None:
            folder = Path(config.output_dir)
            extra = {"loop": state.to_dict(), "seed": config.seed}
            save_checkpoint(self.model, stepper.optimizer, state.step, state.loss, folder, state=extra)

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
            evaluate=None if valid is None else lambda: evaluate_loss(stepper, valid),
            save=save,
            gate=self._gate,
        )

    def _limits(self) -> LoopLimits:
        config = self.config
        return LoopLimits(
            max_steps=config.max_steps,
            grad_accum_steps=config.grad_accum_steps,
            eval_every=config.eval_every,
            save_every=config.save_every,
        )


def _largest_id(examples: Sequence[Any]) -> int:
    sides = (side for item in examples for side in ((item,) if isinstance(item, Example) else item))
    return max(int(side.token_ids.max()) for side in sides)


def _example(token_ids: Any, loss_mask: Any) -> Example:
    return Example(np.asarray(token_ids, np.int32), np.asarray(loss_mask, np.uint8))


def _not_empty(examples: list[Any], rows: int) -> list[Any]:
    if not examples:
        got = f"{rows} rows, none of which has one" if rows else "an empty data set"
        raise DataError(problem("examples with a token to learn", got, "Check the data and max_seq_len."))
    return examples
