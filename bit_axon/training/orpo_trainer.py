"""The Python API for ORPO, over the one loop."""

from collections.abc import Iterable, Sequence
from typing import Any

from bit_axon.data.examples import PairExample
from bit_axon.models.policy import Policy
from bit_axon.training.collate import PairBatchPlan
from bit_axon.training.position import Plan
from bit_axon.training.trainer import Trainer, _example, _not_empty


class ORPOTrainer(Trainer):
    """Supervised and preference training in one, without a reference model.

    The data set yields `(chosen_ids, chosen_mask, rejected_ids, rejected_mask)`; pairs are never packed.
    `train()` also returns `chosen_reward`, `rejected_reward`, `reward_margin` and `reward_accuracy` of
    the last step, where a reward is beta times the mean log-probability of a response's tokens.
    """

    _mode = "orpo"

    def _examples(self, dataset: Iterable[Any]) -> Sequence[Any]:
        pairs = [PairExample(_example(c, cm), _example(r, rm)) for c, cm, r, rm in dataset]
        whole = [p for p in pairs if p.chosen.loss_mask[1:].any() and p.rejected.loss_mask[1:].any()]
        return _not_empty(whole, len(pairs))

    def _packs(self, vocab_size: int) -> bool:
        return False

    def _plan(self, examples: Sequence[Any], policy: Policy, *, training: bool) -> Plan:
        return PairBatchPlan(
            examples,
            batch_size=self.config.batch_size,
            max_seq_len=self.config.max_seq_len,
            pad_token_id=0,
            seed=self.config.seed,
            shuffle=training,
            require_full_batch=training,
        )
