"""How fast a run goes and how long it will take."""

from collections import deque

from bit_axon.training.records import EvaluationRecord, StepRecord

_WINDOW_STEPS = 50


class Pace:
    """Speed over the last steps; steps that compiled a new shape count only while there are no others.

    Args:
        eval_every: steps between evaluations; 0 means one at the end.
    """

    def __init__(self, eval_every: int = 0) -> None:
        self._eval_every = eval_every
        self._steps: deque[tuple[float, int]] = deque(maxlen=_WINDOW_STEPS)  # seconds, tokens
        self._pauses: deque[float] = deque(maxlen=_WINDOW_STEPS)  # seconds beside those of each step
        self._only_compiled = True
        self._eval_seconds: float | None = None  # of the last evaluation

    def on_step(self, record: StepRecord) -> None:
        """Counts a step."""
        self._pauses.append(record.paused_seconds)
        if record.compiled and not self._only_compiled:
            return
        if self._only_compiled and not record.compiled:
            self._steps.clear()
            self._only_compiled = False
        self._steps.append((record.seconds, record.tokens))

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """Learns what an evaluation costs."""
        self._eval_seconds = record.seconds

    @property
    def tokens_per_second(self) -> float | None:
        """Real tokens per second of active training; None before the first step."""
        seconds = sum(step_seconds for step_seconds, _ in self._steps)
        return sum(tokens for _, tokens in self._steps) / seconds if seconds > 0 else None

    def remaining_seconds(self, step: int, max_steps: int) -> float | None:
        """Time of the steps, pauses and evaluations that are left; None before the first step."""
        if not self._steps:
            return None
        seconds_per_step = sum(seconds for seconds, _ in self._steps) / len(self._steps)
        seconds_per_step += sum(self._pauses) / len(self._pauses)
        evaluations = self._evaluations_left(step, max_steps) * (self._eval_seconds or 0.0)
        return (max_steps - step) * seconds_per_step + evaluations

    def _evaluations_left(self, step: int, max_steps: int) -> int:
        if not self._eval_every:
            return int(step < max_steps)
        between = max_steps // self._eval_every - step // self._eval_every
        return between + int(max_steps % self._eval_every != 0)
