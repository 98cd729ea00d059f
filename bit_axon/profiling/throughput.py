"""Whether training has slowed down: the one sign of throttling that every platform gives.

A machine may say that all is well while it lowers its clocks, so each step is compared with the run's own
first steps of the same shape.
"""

from collections import deque
from collections.abc import Hashable
from statistics import median

_REARMED_RATIO = 0.92


class ThroughputWatch:
    """Speed now against the run's own cold start, at equal shape.

    The ratio is the median, over the last steps, of tokens per active second divided by the baseline of
    the step's shape; a baseline is the median of the first steps of that shape. A shape first met on a
    hot machine has a hot baseline, so what it says is at worst too kind.

    Args:
        ratio: below it, `warning` speaks.
        baseline_steps: steps of a shape that make its baseline.
        window_steps: steps that make the ratio.
        rearmed_ratio: above it, a next fall is told again.
    """

    def __init__(
        self,
        ratio: float = 0.85,
        baseline_steps: int = 20,
        window_steps: int = 20,
        *,
        rearmed_ratio: float = _REARMED_RATIO,
    ):
        self._warn_below, self._rearm_above = ratio, max(ratio, rearmed_ratio)
        self._baseline_steps = baseline_steps
        self._first_speeds: dict[Hashable, list[float]] = {}
        self._baselines: dict[Hashable, float] = {}  # tokens per second
        self._window: deque[float] = deque(maxlen=window_steps)
        self._armed = True

    @property
    def ratio(self) -> float | None:
        """1 = as fast as at the start; None until there are enough steps behind the baselines."""
        return median(self._window) if len(self._window) == self._window.maxlen else None

    def add(self, shape: Hashable, tokens: int, active_seconds: float) -> float | None:
        """Counts a step and returns the ratio.

        Args:
            shape: equal for steps that are equal work per token.
            tokens: of the step; a step without any tells nothing.
            active_seconds: without pauses and sleeps. Steps that compiled are not to be added.
        """
        if tokens > 0 and active_seconds > 0:
            self._add_speed(shape, tokens / active_seconds)
        return self.ratio

    def warning(self) -> str | None:
        """A sentence when the ratio has fallen below the limit, once per fall."""
        ratio = self.ratio
        if ratio is None:
            return None
        if ratio > self._rearm_above:
            self._armed = True
        if ratio >= self._warn_below or not self._armed:
            return None
        self._armed = False
        return (
            f"Training has slowed to {ratio:.0%} of the speed of this run's first steps (median of the "
            f"last {len(self._window)}, at equal shapes). The machine lowers its clocks, or other work "
            "takes a part of it."
        )

    def _add_speed(self, shape: Hashable, speed: float) -> None:
        baseline = self._baselines.get(shape)
        if baseline is not None:
            self._window.append(speed / baseline)
            return
        first = self._first_speeds.setdefault(shape, [])
        first.append(speed)
        if len(first) == self._baseline_steps:
            self._baselines[shape] = median(self._first_speeds.pop(shape))
