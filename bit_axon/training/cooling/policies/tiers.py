"""Tiers: full speed, slower, wait, stop."""

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


class TiersPolicy:
    """Slower when warm, a pause when hot, with hysteresis.

    A pause begins when the control statistic reaches `pause` and ends when it and its mean are at or below
    `resume`, after `min_pause_seconds` at the least: the hot spot cools within seconds, the die under it
    does not, and to go on at once would ring. Unknown is not cool: a sensor that
    is lost in a pause ends it late, and then work goes on as if it were warm.
    """

    def __init__(self, config: ThermalConfig, thresholds: Thresholds):
        self._config, self._thresholds = config, thresholds
        self._stop = StopRule(thresholds.stop, config.stop_hold_seconds, config.stop_samples)
        self._was_known = False

    def decide(self, view: View) -> Decision:
        """The stop comes first, within a pause too."""
        self._was_known = self._was_known or view.temp_ctrl_c is not None
        tier = tier_of(view.temp_ctrl_c, self._thresholds)
        if reason := self._stop.reason(view):
            return Decision("stop", "critical", reason=reason)
        if view.pausing_seconds is not None and not self._may_resume(view, view.pausing_seconds):
            return Decision("pause", tier)
        if tier in ("hot", "critical"):
            reason = f"{view.temp_ctrl_c:.1f} °C, limit {self._thresholds.pause:g} °C"
            return Decision("pause", tier, reason=reason)
        reduces = tier == "warm" and self._config.warm_action == "reduce_batch"
        return Decision("run", tier, duty=self._duty(view, tier == "warm"), reduce_batch=reduces)

    def reset(self) -> None:
        """Only the stop rule has a memory."""
        self._stop.reset()

    def _duty(self, view: View, warm: bool) -> float:
        unknown = view.temp_ctrl_c is None and self._was_known
        paced = self._config.warm_duty if unknown or (warm and self._config.warm_action == "pace") else 1.0
        return min(paced, pressure_duty(view, self._config.warm_duty))

    def _may_resume(self, view: View, pausing_seconds: float) -> bool:
        if view.temp_ctrl_c is None or view.temp_filt_c is None:
            return pausing_seconds >= UNKNOWN_PAUSE_SECONDS
        cool = max(view.temp_ctrl_c, view.temp_filt_c) <= self._thresholds.resume
        return cool and pausing_seconds >= self._config.min_pause_seconds
