"""The Python API for ORPO, over the one loop."""

from collections.abc import Sequence
from typing import Any

from bit_axon.data.examples import PairExample
from bit_axon.training.collate import PairBatchPlan
from bit_axon.training.config import TrainingConfig
from bit_axon.training.position import Plan
from bit_axon.training.session import ExampleKind, Session, example_of


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


class ORPOTrainer(Session):
    """Supervised and preference training in one, without a reference model; pairs are never packed.

    A data set yields `(chosen_ids, chosen_mask, rejected_ids, rejected_mask)`. `train` returns besides
    `step`, `loss` and `grad_norm`: `chosen_reward`, `rejected_reward`, `reward_margin` and `reward_accuracy`,
    where a reward is beta times the mean log-probability of a response's tokens.
    """

    _kind = ExampleKind(
        options=lambda config: {"name": "orpo", "beta": config.beta},
        packs=False,
        example=_pair,
        sides=lambda pair: pair,
        plan=_plan,
    )
