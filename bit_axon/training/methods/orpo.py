"""ORPO: supervised and preference loss in one, without a reference model (Hong et al. 2024)."""

from typing import ClassVar, Literal

from bit_axon.backend import mx
from bit_axon.models.inputs import ArrayBatch, LogpSource
from bit_axon.schema import Positive, options
from bit_axon.training.methods.base import ExampleKind, LossSums
from bit_axon.training.orpo_loss import log_odds, orpo_loss


@options
class Orpo:
    """`NLL(chosen)` plus an odds-ratio penalty, per pair; means over pairs.

    With c, r the mean log-probability of the response tokens of chosen and rejected (end token
    included) and `log_odds = logit(e^c) - logit(e^r)`, the loss of a pair is

        scaled_logit: -c - log sigmoid(beta * log_odds)
        weighted:     -c - beta * log sigmoid(log_odds)      (the paper's and TRL's form)
    """

    kind: ClassVar[ExampleKind] = "pairs"
    metrics: ClassVar[tuple[str, ...]] = (
        "chosen_reward",
        "rejected_reward",
        "reward_margin",
        "reward_accuracy",
        "nll",
        "log_odds",
    )

    name: Literal["orpo"] = "orpo"
    beta: Positive = 0.1  # strength of the preference term
    odds_ratio: Literal["scaled_logit", "weighted"] = "scaled_logit"

    def loss(self, policy: LogpSource, batch: ArrayBatch) -> LossSums:
        """Weight: pairs. Rows 0..P-1 are chosen, P..2P-1 rejected; a row without targets is no pair."""
        lengths = mx.sum(batch.mask[:, 1:], axis=1)
        means = mx.sum(policy.token_logps(batch), axis=1) / mx.maximum(lengths, 1)
        chosen, rejected = mx.split(means, 2)
        present = (mx.minimum(*mx.split(lengths, 2)) > 0).astype(mx.float32)
        # An absent pair's means are 0, where the odds are infinite: give it harmless ones.
        chosen, rejected = (mx.where(present > 0, side, -1.0) for side in (chosen, rejected))
        penalty = orpo_loss(chosen, rejected, self.beta, self.odds_ratio)
        metrics = {
            "chosen_reward": self.beta * chosen,
            "rejected_reward": self.beta * rejected,
            "reward_margin": self.beta * (chosen - rejected),
            "reward_accuracy": (chosen > rejected).astype(mx.float32),
            "nll": -chosen,
            "log_odds": log_odds(chosen, rejected),
        }
        sums = {name: mx.sum(value * present) for name, value in metrics.items()}
        return LossSums(mx.sum((penalty - chosen) * present), mx.sum(present), sums)
