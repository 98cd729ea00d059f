"""What the loop tells its observers: plain values, already evaluated, safe to keep and to print."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class StepRecord:
    """One optimizer update."""

    step: int  # 1-based count of optimizer updates
    max_steps: int
    epoch: float  # passes over the training set so far
    loss: float  # weighted mean over the step's micro-batches
    learning_rate: float
    grad_norm: float  # before clipping
    examples: int  # in this step
    tokens: int  # real tokens in this step, padding not counted
    supervised_tokens: int
    seconds: float  # active training time of this step
    compiled: bool  # True when the step traced a shape for the first time: left out of speed figures
    peak_memory_bytes: int
    paused_seconds: float = 0.0  # beside `seconds`: waiting for the machine to cool
    metrics: Mapping[str, float] = field(default_factory=dict)  # the method's own, already divided
    thermal: Mapping[str, float] = field(default_factory=dict)  # temp_c, duty, ...: what is known

    @property
    def temp_c(self) -> float | None:
        """The temperature that counts, in °C."""
        return self.thermal.get("temp_c")


@dataclass(frozen=True)
class EvaluationRecord:
    """One pass over the fixed validation set, after `step` optimizer updates."""

    step: int
    loss: float
    loss_best: float
    examples: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Means over the validation set."""

    loss: float
    metrics: dict[str, float]
    examples: int


class Observer(Protocol):
    """Is told what happens, in order, on the training thread; it must return quickly."""

    def on_step(self, record: StepRecord) -> None:
        """An update was made."""

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """The validation set was evaluated."""

    def on_message(self, text: str) -> None:
        """Something a person should read."""
