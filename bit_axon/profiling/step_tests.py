"""A step test as it was measured: idle, full load, idle again."""

from dataclasses import dataclass
from statistics import fmean, median
from typing import Final, Literal

import numpy as np

from bit_axon.errors import SensorError, problem

_FEWEST_SAMPLES: Final = 20
_LEAST_RISE_TEMP: Final = 3.0  # a smaller one may be anything
_SETTLING_SHARE: Final = 0.2  # of a phase, before its power counts


@dataclass(frozen=True)
class StepTest:
    """What was measured: one value per sample, seconds since the test's beginning.

    Attributes:
        source: the source of temperature.
        load_began_seconds: the load was switched on; `load_ended_seconds` and off.
        temps: of the hottest group of sensors, °C.
        powers_w: None where there was no answer.
        power_of: what the power is of: the whole machine, or the chip alone. None = no power sensor.
    """

    source: str
    load_began_seconds: float
    load_ended_seconds: float
    seconds: tuple[float, ...]
    temps: tuple[float, ...]
    powers_w: tuple[float | None, ...] = ()
    power_of: Literal["machine", "chip"] | None = None

    @property
    def idle_temp(self) -> float:
        """Mean before the load, °C; 0 for a test without a sample."""
        return fmean(self._temps_between(-1.0, self.load_began_seconds) or self.temps[:1] or (0.0,))

    @property
    def idle_slope(self) -> float:
        """How fast the sensor moved before the load, K/s."""
        temps = self._temps_between(-1.0, self.load_began_seconds)
        if len(temps) < 4:
            return 0.0
        return float(np.polyfit(np.array(self.seconds[: len(temps)]), np.array(temps), 1)[0])

    @property
    def idle_power_w(self) -> float | None:
        """Median before the load."""
        return self._power_between(0.0, self.load_began_seconds)

    @property
    def full_power_w(self) -> float | None:
        """Median under load."""
        return self._power_between(self.load_began_seconds, self.load_ended_seconds)

    def check(self) -> None:
        """Whether there is something to be learned from it.

        Raises:
            SensorError: too few samples, or the load did not move the sensor.
        """
        if len(self.temps) < _FEWEST_SAMPLES:
            wanted = f"at least {_FEWEST_SAMPLES} temperatures from {self.source}"
            raise SensorError(
                problem(wanted, str(len(self.temps)), "Test for longer, or use another source.")
            )
        loaded = self._temps_between(self.load_began_seconds, self.load_ended_seconds)
        rise = median(loaded[-5:]) - self.idle_temp if loaded else 0.0
        if rise < _LEAST_RISE_TEMP:
            wanted = f"a rise of at least {_LEAST_RISE_TEMP:g} °C under load"
            remedy = (
                f"{self.source} may not see the device that was loaded, or the machine was hot before: "
                "use another source, or let it idle for ten minutes."
            )
            raise SensorError(problem(wanted, f"{rise:.1f} °C", remedy))

    def _temps_between(self, begin_seconds: float, end_seconds: float) -> list[float]:
        samples = zip(self.seconds, self.temps, strict=True)
        return [temp for now, temp in samples if begin_seconds < now <= end_seconds]

    def _power_between(self, begin_seconds: float, end_seconds: float) -> float | None:
        settled = begin_seconds + _SETTLING_SHARE * (end_seconds - begin_seconds)
        samples = zip(self.seconds, self.powers_w, strict=False)  # none at all without a power sensor
        powers = [power for now, power in samples if power is not None and settled < now <= end_seconds]
        return median(powers) if powers else None
