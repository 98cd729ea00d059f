"""What one update worked on, in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from bit_axon.training.batches import Batch


@dataclass(frozen=True)
class StepWork:
    """The sums over a step's micro-batches.

    Attributes:
        examples: sequences or pairs.
        tokens: real ones, padding not counted.
        supervised_tokens: those that carry loss.
        shape: of all its batches; steps of one shape can be compared in speed.
    """

    examples: int
    tokens: int
    supervised_tokens: int
    shape: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> Self:
        """Adds up micro-batches."""
        return cls(
            sum(batch.examples for batch in batches),
            sum(batch.real_tokens for batch in batches),
            sum(batch.supervised_tokens for batch in batches),
            tuple(sorted(batch.tokens.shape for batch in batches)),
        )
