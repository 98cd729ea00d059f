"""The temperature at which a machine rests, and the last readings it is found with."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

import numpy as np

from bit_axon.profiling.clock import Clock
from bit_axon.sweep.thermal.heat_rules import START

REMEASURED_SECONDS: Final = 3600.0  # by then the air may have become warmer or cooler
MOST_DRIFT_TEMP: Final = 10.0  # °C; what rests higher than that above its coolest has other work to do
UNSURE_TEMP: Final = (
    3.0  # °C that a warm case of a fanless laptop may still have to fall when it looks steady
)
_MEAN_SECONDS = 60.0
_STEADY_SECONDS = 120.0
_STEADY_TEMP_PER_MINUTE = 0.2
_FEWEST_READINGS = 3


class LastMinutes:
    """The temperatures of the last two minutes: the mean of one, the slope of both.

    Over one minute, noise of 0.3 °C in each reading looks like a slope of 0.15 °C a minute or more, and a
    wait asks often; a case that was warmed up still cools by half a degree a minute after ten minutes.
    """

    def __init__(self) -> None:
        self._readings: deque[tuple[float, float]] = deque()
        self._began: float | None = None

    def add(self, at_seconds: float, temp: float) -> None:
        """The newest one; one of a moment that is known already changes nothing."""
        if self._readings and at_seconds <= self._readings[-1][0]:
            return
        self._began = at_seconds if self._began is None else self._began
        self._readings.append((at_seconds, temp))
        while at_seconds - self._readings[0][0] > _STEADY_SECONDS:
            self._readings.popleft()

    def clear(self) -> None:
        """What came before a gap says nothing about what comes after it."""
        self._readings.clear()
        self._began = None

    @property
    def mean(self) -> float | None:
        """°C, of the last minute; None before a minute has passed."""
        if not self._covers(_MEAN_SECONDS):
            return None
        newest = self._readings[-1][0]
        return fmean(temp for at, temp in self._readings if newest - at <= _MEAN_SECONDS)

    @property
    def is_steady(self) -> bool:
        """Whether the temperature no longer moves, by the straight line through both minutes."""
        if not self._covers(_STEADY_SECONDS):
            return False
        readings = np.array(self._readings)
        at, temps = (readings - readings.mean(axis=0)).T
        return abs(float(at @ temps / (at @ at))) * 60.0 <= _STEADY_TEMP_PER_MINUTE

    def _covers(self, seconds: float) -> bool:
        enough = len(self._readings) >= _FEWEST_READINGS
        return enough and self._began is not None and self._readings[-1][0] - self._began >= seconds


@dataclass(frozen=True)
class KnownBase:
    """A temperature at rest that earlier trials went by.

    Attributes:
        temp_c: it.
        wall_ms: Unix time in milliseconds at which it was measured.
    """

    temp_c: float
    wall_ms: int


def last_base(trials: Iterable[Mapping[str, Any]], host: str) -> KnownBase | None:
    """The base of the newest trial of this host.

    Args:
        trials: their attributes, oldest first.
        host: as in `Start`.
    """
    found: KnownBase | None = None
    for attributes in trials:
        start = attributes.get(START)
        if not isinstance(start, Mapping) or start.get("host") != host:
            continue
        temp, wall_ms = start.get("base_c"), start.get("base_wall_ms")
        if isinstance(temp, float | int) and isinstance(wall_ms, int):
            found = KnownBase(float(temp), wall_ms)
    return found


class Baseline:
    """What is known of the temperature at rest.

    A wait for a trial ends some degrees above the base. If the lowest minute of each such wait became the
    base, it would rise by those degrees every hour; so only a machine that has come to rest raises it.

    Args:
        clock: of its age.
        known: from earlier trials.
    """

    def __init__(self, clock: Clock, known: KnownBase | None = None):
        self._clock = clock
        self.temp = known.temp_c if known else None
        self._coolest = self.temp
        now, wall_ms = clock.monotonic(), clock.wall_ms()
        self.wall_ms = known.wall_ms if known else None
        self._measured = now - max(0, wall_ms - known.wall_ms) / 1000 if known else now

    @property
    def is_due(self) -> bool:
        """Whether it is to be measured in the next wait."""
        return self.temp is None or self._clock.monotonic() - self._measured > REMEASURED_SECONDS

    def seen(self, mean: float) -> None:
        """A minute of readings while nothing runs: a lower one is nearer to rest."""
        if self.temp is not None and self._coolest is not None and mean < self.temp:
            self.temp = mean
            self._coolest = min(mean, self._coolest)

    def rested(self, mean: float) -> None:
        """The machine has come to rest, as far as two minutes can tell.

        A base that rises a little may only show that the case still cools, slowly; what is far above the
        coolest is other work.
        """
        if self.temp is None or self._coolest is None:
            self.temp = self._coolest = mean
        elif mean < self.temp or self.temp + UNSURE_TEMP < mean <= self._coolest + MOST_DRIFT_TEMP:
            self.temp = mean
            self._coolest = min(mean, self._coolest)
        self._note_time()

    def not_rested(self, mean: float | None) -> None:
        """It did not come to rest in time: better than nothing, no better than what is known."""
        if self.temp is None:
            self.temp = self._coolest = mean
        self._note_time()

    def _note_time(self) -> None:
        self._measured, self.wall_ms = self._clock.monotonic(), self._clock.wall_ms()
