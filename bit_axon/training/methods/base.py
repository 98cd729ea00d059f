"""What every method is."""

from typing import ClassVar, Literal, NamedTuple, Protocol

from bit_axon.backend import mx
from bit_axon.models.inputs import ArrayBatch, LogpSource

ExampleKind = Literal["tokens", "pairs"]


class LossSums(NamedTuple):
    """Sums over one micro-batch; the loop adds them up and divides by `weight` once.

    Attributes:
        loss: scalar, the sum to be minimised.
        weight: scalar, what the sum is divided by: supervised tokens, or pairs.
        metrics: scalars, divided by `weight` too; every micro-batch has the same names.
    """

    loss: mx.array
    weight: mx.array
    metrics: dict[str, mx.array]


class Method(Protocol):
    """A loss over a policy. Implementations are frozen option classes: their fields are config keys."""

    kind: ClassVar[ExampleKind]
    metrics: ClassVar[tuple[str, ...]]  # names of its sums, besides the loss

    @property
    def name(self) -> str:
        """As in the config and in metric names."""

    def loss(self, policy: LogpSource, batch: ArrayBatch) -> LossSums:
        """Sums over one micro-batch; pure, so that it can be compiled and differentiated."""


def next_token_sums(policy: LogpSource, batch: ArrayBatch) -> LossSums:
    """Summed negative log-likelihood of the target tokens, in nats, and their number."""
    return LossSums(-mx.sum(policy.token_logps(batch)), mx.sum(batch.mask[:, 1:]), {})
