"""The Python API for supervised fine-tuning, over the one loop."""

from collections.abc import Sequence

from bit_axon.data.examples import Example
from bit_axon.training.collate import TokenBatchPlan
from bit_axon.training.config import TrainingConfig
from bit_axon.training.position import Plan
from bit_axon.training.session import ExampleKind, Session, example_of

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


class Trainer(Session):
    """Supervised fine-tuning of a model whose adapters are attached (`apply_lora_to_model`).

    A data set yields `(token_ids, loss_mask)`.
    """

    _kind = ExampleKind(
        options=lambda config: {"name": "sft"},
        packs=True,
        example=lambda item: example_of(*item),
        sides=lambda e: (e,),
        plan=_plan,
    )
