"""The Python API for ORPO, over the one loop."""

from collections.abc import Iterable, Sequence
from typing import Any

import mlx.nn as nn

from bit_axon.data.examples import PairExample
from bit_axon.training.collate import PairBatchPlan
from bit_axon.training.config import TrainingConfig
from bit_axon.training.position import Plan
from bit_axon.training.records import Observer
from bit_axon.training.session import Cooling, ExampleKind, Session, example_of


def _pair(item: Any) -> PairExample:
    chosen_ids, chosen_mask, rejected_ids, rejected_mask = item
    return PairExample(example_of(chosen_ids, chosen_mask), example_of(rejected_ids, rejected_mask))


def _plan(pairs: Sequence[PairExample], config: TrainingConfig, packed: bool, training: bool) -> Plan:
    return PairBatchPlan(
        pairs,
        batch_size=config.batch_size,
        max_seq_len=config.max_seq_len,
        pad_token_id=0,
        seed=config.seed,
        shuffle=training,
        require_full_batch=training,
    )


_KIND = ExampleKind(
    options=lambda config: {"name": "orpo", "beta": config.beta},
    packs=False,
    example=_pair,
    sides=lambda pair: pair,
    plan=_plan,
)


class ORPOTrainer:
    """Supervised and preference training in one, without a reference model; pairs are never packed.

    Args:
        model: any mlx-lm model; its trainable parameters are trained.
        config: hyper-parameters.
        dataset: yields `(chosen_ids, chosen_mask, rejected_ids, rejected_mask)`.
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
        """Trains to `max_steps`; returns figures of the last step.

        Besides `step`, `loss` and `grad_norm`: `chosen_reward`, `rejected_reward`, `reward_margin` and
        `reward_accuracy`, where a reward is beta times the mean log-probability of a response's tokens.

        Raises:
            ThermalShutdownError: too hot; a checkpoint was saved first.
            NonFiniteLossError: the loss became NaN or infinite.
        """
        return self._session.train()
