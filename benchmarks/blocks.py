"""What a block of steps yields, and how rounds of blocks are compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any


@dataclass(frozen=True)
class Block:
    """The steps of one block.

    Attributes:
        steps: seconds and `StepFacts` of each, as the worker sent them.
        peak_bytes: of the framework's allocator; None where it does not count.
        resident_peak_bytes: of the process.
    """

    steps: tuple[Mapping[str, Any], ...]
    peak_bytes: int | None
    resident_peak_bytes: int

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> "Block":
        """From a worker's line."""
        return cls(tuple(message["steps"]), message["peak_bytes"], message["resident_peak_bytes"])

    @property
    def steady(self) -> tuple[Mapping[str, Any], ...]:
        """Steps for which nothing was compiled."""
        return tuple(step for step in self.steps if not step["is_new_shape"])

    def rate(self, counted: str) -> float | None:
        """So many per second in steady steps, by the block's total; None without a steady step."""
        return rate(self.steady, counted)

    def step_seconds(self) -> float | None:
        """The median steady step."""
        seconds = [float(step["seconds"]) for step in self.steady]
        return median(seconds) if seconds else None


def rate(steps: Sequence[Mapping[str, Any]], counted: str) -> float | None:
    """`counted` per second over some steps; None for none."""
    seconds = sum(float(step["seconds"]) for step in steps)
    return sum(float(step[counted]) for step in steps) / seconds if seconds else None


METRICS: dict[str, Callable[[Block], float | None]] = {
    "real_tokens_per_second": lambda block: block.rate("real_tokens"),
    "supervised_tokens_per_second": lambda block: block.rate("supervised_tokens"),
    "examples_per_second": lambda block: block.rate("examples"),
    "step_seconds": Block.step_seconds,
    "peak_bytes": lambda block: None if block.peak_bytes is None else float(block.peak_bytes),
    "resident_peak_bytes": lambda block: float(block.resident_peak_bytes),
}


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    lower: float
    upper: float


def spread(values: Sequence[float]) -> Spread | None:
    """Median and quartiles (inclusive); None for no values."""
    if not values:
        return None
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    lower, middle, upper = quantiles(values, n=4, method="inclusive")
    return Spread(middle, lower, upper)


def values_of(blocks: Sequence[Block], metric: str) -> list[float]:
    """A metric round by round, without the rounds that have none."""
    found = [METRICS[metric](block) for block in blocks]
    return [value for value in found if value is not None]


def ratios(ours: Sequence[Block], peer: Sequence[Block], metric: str) -> list[float]:
    """Ours divided by the peer's, round by round: what slows the machine for a while slows both."""
    measure = METRICS[metric]
    pairs = [(measure(a), measure(b)) for a, b in zip(ours, peer, strict=False)]
    return [a / b for a, b in pairs if a is not None and b]
