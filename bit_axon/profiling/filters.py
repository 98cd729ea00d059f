"""Two filters for readings: a short median against spikes, then a mean over time against noise."""

import math
from collections import deque
from statistics import median

from bit_axon.errors import ConfigError, problem


class RunningMedian:
    """Median of the last few values, or of as many as there have been.

    With an odd number of samples one outlier among them never shows. With an even number, and while the
    window fills, the median is the mean of the middle two, so that a part of an outlier does.

    Args:
        samples: width of the window; 1 lets everything through.

    Raises:
        ConfigError: the window is empty.
    """

    def __init__(self, samples: int):
        if samples < 1:
            raise ConfigError(problem("a window of one sample or more", str(samples), "Use an odd number."))
        self._window: deque[float] = deque(maxlen=samples)

    def add(self, value: float) -> float:
        """The median with `value` as the newest."""
        self._window.append(value)
        return median(self._window)

    def reset(self) -> None:
        """Forgets the window."""
        self._window.clear()


class ExponentialMean:
    """Mean with weights that fall with age, for values at uneven distances in time.

    A value that comes `dt` seconds after the one before moves the mean by `alpha = 1 - exp(-dt / tau)` of
    the distance: after `tau` seconds, in however many pieces, 63 % of a step is in the mean. The first value
    is the mean.

    Args:
        time_constant_seconds: tau.

    Raises:
        ConfigError: it is not above zero.
    """

    def __init__(self, time_constant_seconds: float):
        if not time_constant_seconds > 0:
            raise ConfigError(
                problem("a time constant above 0 s", f"{time_constant_seconds}", "Use 15 s or so.")
            )
        self._tau_seconds = time_constant_seconds
        self._mean: float | None = None
        self._last_seconds = 0.0

    def add(self, value: float, now_seconds: float) -> float:
        """The mean with `value`, which was read at `now_seconds`."""
        if self._mean is None:
            self._mean = value
        else:
            elapsed = max(0.0, now_seconds - self._last_seconds)
            self._mean += (value - self._mean) * fraction_covered(elapsed, self._tau_seconds)
        self._last_seconds = now_seconds
        return self._mean

    def reset(self) -> None:
        """Forgets the mean."""
        self._mean = None


def fraction_covered(elapsed_seconds: float, time_constant_seconds: float) -> float:
    """How much of a step a first-order system has followed: `1 - exp(-dt / tau)`."""
    return -math.expm1(-elapsed_seconds / time_constant_seconds)
