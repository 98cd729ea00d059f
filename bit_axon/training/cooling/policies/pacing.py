"""Pacing: short waits between micro-batches hold a target temperature."""

from bit_axon.profiling.sensors.base import Thresholds
from bit_axon.schema import ThermalConfig
from bit_axon.training.cooling.policies.base import (
    UNKNOWN_PAUSE_SECONDS,
    Decision,
    StopRule,
    View,
    pressure_duty,
    tier_of,
)

_ENGAGE_BELOW = 10.0  # °C under the target: where control begins
_HARD_PAUSE_ABOVE = 9.0  # °C over the target: no pacing helps there
_LONGEST_STEP_SECONDS = 10.0  # of the integral: one reading says nothing about a longer time


class PacingPolicy:
    """A PI controller of the duty cycle on the mean temperature.

    duty = K (target - T) + I,   dI/dt = K (target - T) / Ti

    without a derivative, which the noise of 1 Hz readings makes harmful. The integral starts at
    `start_duty` when the temperature comes near the target for the first time, since a start at full duty
    overshoots by the whole height of the hot spot; it stands still where the duty is at a limit.
    """

    def __init__(self, config: ThermalConfig, thresholds: Thresholds):
        self._config, self._thresholds = config, thresholds
        self._stop = StopRule(thresholds.stop, config.stop_hold_seconds, config.stop_samples)
        hard_pause = max(thresholds.target + _HARD_PAUSE_ABOVE, thresholds.pause)
        self._hard_pause = min(hard_pause, thresholds.stop)
        self._integral: float | None = None  # None: not engaged yet
        self._duty = 1.0
        self._last: tuple[int, float] | None = None  # number and time of the reading used last

    def decide(self, view: View) -> Decision:
        """A new duty for each new reading; unknown keeps the last one."""
        tier = tier_of(view.temp_ctrl_c, self._thresholds)
        if reason := self._stop.reason(view):
            return Decision("stop", "critical", reason=reason)
        self._update(view)
        if self._must_pause(view):
            shown = "unknown" if view.temp_ctrl_c is None else f"{view.temp_ctrl_c:.1f} °C"
            reason = f"{shown}, limit {self._hard_pause:g} °C"
            return Decision("pause", tier, duty=self._duty, reason=reason)
        duty = min(self._duty, pressure_duty(view, self._config.warm_duty))
        return Decision("run", tier, duty=duty)

    def reset(self) -> None:
        """Begins as at the start of a run."""
        self._stop.reset()
        self._integral, self._last, self._duty = None, None, 1.0

    def _must_pause(self, view: View) -> bool:
        if view.temp_ctrl_c is None or view.temp_filt_c is None:
            return view.pausing_seconds is not None and view.pausing_seconds < UNKNOWN_PAUSE_SECONDS
        if view.pausing_seconds is None:
            return view.temp_ctrl_c >= self._hard_pause
        cool = max(view.temp_ctrl_c, view.temp_filt_c) <= self._thresholds.target
        return not cool or view.pausing_seconds < self._config.min_pause_seconds

    def _update(self, view: View) -> None:
        if view.gap:
            self._integral, self._last = None, None  # what it had learned was of before
        if view.temp_filt_c is None or (self._last and self._last[0] == view.number):
            return
        seconds = min(view.now - self._last[1], _LONGEST_STEP_SECONDS) if self._last else 0.0
        self._last = view.number, view.now
        error = self._thresholds.target - view.temp_filt_c
        if self._integral is None:
            if error > _ENGAGE_BELOW:
                self._duty = 1.0
                return
            self._integral = self._config.start_duty
        self._duty = self._controlled(error, seconds, view.pausing_seconds is not None)

    def _controlled(self, error: float, seconds: float, pausing: bool) -> float:
        gain, low = self._config.proportional_gain, self._config.min_duty
        assert self._integral is not None
        wanted = gain * error + self._integral
        saturated = (wanted >= 1.0 and error > 0) or (wanted <= low and error < 0)
        if not saturated and not pausing:
            self._integral += gain * error * seconds / self._config.integral_seconds
            self._integral = min(max(self._integral, low), 1.0)
        return min(max(wanted, low), 1.0)
