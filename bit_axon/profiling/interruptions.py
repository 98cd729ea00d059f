"""Times of which nothing is known: the machine slept, or the process stood still."""

from bit_axon.profiling.clock import Clock

_SLEPT_SECONDS = 2.0  # the two clocks that tell sleep are not read at the same moment
_LONG_SECONDS = 10.0
_LONG_POLLS = 5.0


class Interruptions:
    """Notices that time was lost between two looks.

    Args:
        clock: whose monotonic time stands still while the machine sleeps, and which counts that sleep.
        poll_interval: seconds between polls as they should be.
    """

    def __init__(self, clock: Clock, poll_interval: float):
        self._clock = clock
        self._longest_seconds = max(_LONG_SECONDS, _LONG_POLLS * poll_interval)
        self._last_seconds: float | None = None
        self._last_suspended = 0.0

    def restart(self) -> None:
        """The next look is the first: what was before it is no gap."""
        self._last_seconds = None

    def since_last(self, now: float) -> str | None:
        """What happened since the look before, once; None for the usual."""
        last, slept = self._last_seconds, self._clock.suspended_seconds() - self._last_suspended
        self._last_seconds = now
        self._last_suspended += slept
        if last is None:
            return None
        if slept > _SLEPT_SECONDS:
            return f"The machine slept for {slept:.0f} s"
        if now - last > self._longest_seconds:
            return f"There was no reading for {now - last:.0f} s"
        return None
