"""Waiting, after a thermal stop, until work may go on."""

from collections.abc import Callable

from bit_axon.profiling.clock import Clock
from bit_axon.profiling.reading import PRESSURE_HEAVY, Reading
from bit_axon.profiling.sensors.base import Thresholds
from bit_axon.schema import ThermalConfig

_LONGEST_WAIT_SECONDS = 7200.0  # a case cools down within the hour; a room that is too hot never lets it


class CoolDown:
    """Waits until the temperature is at or below `resume` and the system reports no heavy pressure.

    Where there never was a temperature, the pressure decides alone. A temperature that was there and is
    not any more is unknown, not cool.

    Args:
        latest: the newest reading.
        clock: of the waiting.
        config: how often to look, and how long to go without knowing anything.
        thresholds: `resume`.
        stop_requested: ends the waiting.
        say: a line for a person.
    """

    def __init__(
        self,
        latest: Callable[[], Reading | None],
        clock: Clock,
        config: ThermalConfig,
        thresholds: Thresholds,
        stop_requested: Callable[[], bool],
        say: Callable[[str], None],
    ):
        self._latest, self._clock = latest, clock
        self._config, self._thresholds = config, thresholds
        self._stop_requested, self._say = stop_requested, say

    def wait(self, *, has_temperature: bool) -> bool:
        """True once it is cool; False after two hours, or when a stop was requested or nothing is known."""
        began = last_known = self._clock.monotonic()
        goal = f"{self._thresholds.resume:g} °C is" if has_temperature else "normal thermal pressure is"
        self._say(f"Waiting until {goal} reached, then going on by itself.")
        while not self._stop_requested():
            self._clock.sleep(self._config.poll_interval, self._stop_requested)
            now, cool = self._clock.monotonic(), self._is_cool(has_temperature)
            if cool:
                self._say(f"Cooled down{self._shown(' to')} in {now - began:.0f} s: going on.")
                return True
            last_known = now if cool is not None else last_known
            if now - last_known > self._config.max_pause_seconds:
                self._say("Nothing was read of the temperature while cooling down: the run ends here.")
                return False
            if now - began > _LONGEST_WAIT_SECONDS:
                self._say(f"Still{self._shown(' at')} after {now - began:.0f} s: the run ends here.")
                return False
        return False

    def _is_cool(self, has_temperature: bool) -> bool | None:
        """None: not known."""
        reading = self._latest()
        if reading is None:
            return None
        if reading.pressure is not None and reading.pressure >= PRESSURE_HEAVY:
            return False
        if not has_temperature:
            return None if reading.pressure is None else True
        if reading.temp_ctrl_c is None or reading.temp_filt_c is None:
            return None
        return max(reading.temp_ctrl_c, reading.temp_filt_c) <= self._thresholds.resume

    def _shown(self, before: str) -> str:
        reading = self._latest()
        temp = reading.temp_ctrl_c if reading is not None else None
        return "" if temp is None else f"{before} {temp:.1f} °C"
