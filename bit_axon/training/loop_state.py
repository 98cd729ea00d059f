"""What a run has done so far, as a checkpoint keeps it."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class LoopState:
    """Everything a checkpoint has to remember besides parameters and optimizer."""

    step: int = 0
    micro_batch: int = 0  # position in the stream of micro-batches
    epoch: float = 0.0
    loss: float = 0.0
    grad_norm: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    eval_loss: float | None = None
    eval_loss_before: float | None = None
    eval_loss_best: float | None = None
    eval_metrics: dict[str, float] = field(default_factory=dict)
    eval_metrics_before: dict[str, float] = field(default_factory=dict)
    evaluated_step: int = -1
    evaluations_without_gain: int = 0
    examples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    save_seconds: float = 0.0
    paused_seconds: float = 0.0  # for the machine to cool
    measured_seconds: float = 0.0  # steps that compiled a new shape left out
    measured_tokens: int = 0
    measured_examples: int = 0

    def count(
        self, examples: int, tokens: int, supervised_tokens: int, seconds: float, *, compiled: bool
    ) -> None:
        """Adds an update; one that compiled a shape is no measure of speed."""
        self.examples += examples
        self.tokens += tokens
        self.supervised_tokens += supervised_tokens
        self.train_seconds += seconds
        if not compiled:
            self.measured_seconds += seconds
            self.measured_tokens += tokens
            self.measured_examples += examples

    def note_evaluation(
        self, loss: float, metrics: dict[str, float], seconds: float, *, min_delta: float
    ) -> None:
        """Keeps the loss, and the best one, and counts evaluations without gain."""
        self.eval_seconds += seconds
        self.eval_loss, self.eval_metrics, self.evaluated_step = loss, metrics, self.step
        if self.step == 0:
            self.eval_loss_before, self.eval_metrics_before = loss, metrics
        best = self.eval_loss_best
        gained = best is None or loss < best - min_delta
        self.evaluations_without_gain = 0 if gained else self.evaluations_without_gain + 1
        self.eval_loss_best = loss if best is None else min(best, loss)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LoopState":
        """The inverse of `to_dict`; unknown keys are of other versions and ignored."""
        known = {member.name for member in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})
