"""Plain next-token training on text or completions, for a model trained from its beginning."""

from typing import ClassVar, Literal

from bit_axon.models.inputs import ArrayBatch, LogpSource
from bit_axon.schema import options
from bit_axon.training.methods.base import ExampleKind, LossSums, next_token_sums


@options
class Pretrain:
    """Token-weighted mean cross-entropy; its preset takes the loss on every token, prompts too."""

    kind: ClassVar[ExampleKind] = "tokens"
    metrics: ClassVar[tuple[str, ...]] = ()

    name: Literal["pretrain"] = "pretrain"

    def loss(self, policy: LogpSource, batch: ArrayBatch) -> LossSums:
        """Weight: supervised tokens."""
        return next_token_sums(policy, batch)
