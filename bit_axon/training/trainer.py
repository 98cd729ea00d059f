"""The Python API for supervised fine-tuning, over the one loop."""

from collections.abc import Iterable, Sequence
from typing import Any

import mlx.nn as nn

from bit_axon.data.examples import Example
from bit_axon.training.collate import TokenBatchPlan
from bit_axon.training.config import TrainingConfig
from bit_axon.training.position import Plan
from bit_axon.training.records import Observer
from bit_axon.training.session import Cooling, ExampleKind, Session, example_of

_SEPARATOR_ID = 0  # between packed examples: never a target and seen by nothing, so any id will do


def _plan(examples: Sequence[Example], config: TrainingConfig, packed: bool, training: bool) -> Plan:
    return TokenBatchPlan(
        examples,
        batch_size=config.batch_size,
        max_seq_len=config.max_seq_len,
        packing=packed,
        eos_token_id=_SEPARATOR_ID,
        pad_token_id=0,
        seed=config.seed,
        shuffle=training,
        require_full_batch=training,
    )


_KIND = ExampleKind(
    options=lambda config: {"name": "sft"},
    packs=True,
    example=lambda item: example_of(*item),
    sides=lambda e: (e,),
    plan=_plan,
)


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

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        dataset: Iterable[Any],
        val_dataset: Iterable[Any] | None = None,
        cooling_scheduler: Cooling | None = None,
        observer: Observer | None = None,
    ):
        self._session = Session(_KIND, model, config, dataset, val_dataset, cooling_scheduler, observer)

    def setup(self) -> None:
        """Builds optimizer, schedule and batches; resumes from the newest checkpoint in `output_dir`.

        `train` calls it when it was not called before.

        Raises:
            DataError: the data set is empty or smaller than a batch.
            ModelError: the checkpoint belongs to another model.
        """
        self._session.setup()

    def train(self) -> dict[str, Any]:
        """Trains to `max_steps`; returns `step`, `loss` and `grad_norm` of the last step.

        Raises:
            ThermalShutdownError: too hot; a checkpoint was saved first.
            NonFiniteLossError: the loss became NaN or infinite.
        """
        return self._session.train()
