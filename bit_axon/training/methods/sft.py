"""Supervised fine-tuning: cross-entropy on the assistant's tokens."""

from typing import ClassVar, Literal

from bit_axon.models.inputs import ArrayBatch, LogpSource
from bit_axon.schema import options
from bit_axon.training.methods.base import ExampleKind, LossSums, next_token_sums


@options
class Sft:
    """Token-weighted mean cross-entropy; which tokens count is decided by the data's mask."""

    kind: ClassVar[ExampleKind] = "tokens"
    metrics: ClassVar[tuple[str, ...]] = ()

    name: Literal["sft"] = "sft"

    def loss(self, policy: LogpSource, batch: ArrayBatch) -> LossSums:
        """Weight: supervised tokens."""
        return next_token_sums(policy, batch)
