"""Sensors that do not measure: a value that never changes while everything around it does.

Sensors of a die are noisy by 0.3 to 0.5 °C, so a value that stays the same to the last bit for a minute is
suspect. That alone is no proof: a chip that a fan holds at a temperature, read in whole degrees, looks
just like it. So something must have happened meanwhile that a sensor has to notice.
"""

from collections import deque
from collections.abc import Hashable, Mapping
from typing import Final, TypeVar

Key = TypeVar("Key", bound=Hashable)

STUCK_SECONDS: Final = 60.0
# A die follows its load within seconds; a sensor that was not given them proves nothing.
_RESPONSE_SECONDS: Final = 10.0
# What has to change, for sensors with a fraction and for those in whole degrees.
_DUTY_CHANGE: Final = (0.1, 0.5)
_MOVED_TEMP: Final = (1.0, 5.0)


class Course:
    """How a value went over the last minute; only its changes are kept."""

    def __init__(self) -> None:
        self._changes: deque[tuple[float, float]] = deque()  # (moment, value from then on)

    def __len__(self) -> int:
        """How many changes are kept."""
        return len(self._changes)

    @property
    def value(self) -> float | None:
        """The newest; None before the first."""
        return self._changes[-1][1] if self._changes else None

    def add(self, value: float, now: float) -> None:
        """What it is at the moment `now`."""
        if value != self.value:
            self._changes.append((now, value))
        while len(self._changes) > 1 and self._changes[1][0] <= now - STUCK_SECONDS:
            self._changes.popleft()

    def unchanged_seconds(self, now: float) -> float:
        """For how long it has been the same to the last bit."""
        return now - self._changes[-1][0] if self._changes else 0.0

    def span(self, now: float, until: float | None = None) -> float:
        """Highest less lowest value in the minute before `now`, of it the part up to `until`."""
        end = now if until is None else until
        begin = now - STUCK_SECONDS
        values: list[float] = []
        for moment, value in self._changes:
            if moment > end:
                break
            if moment <= begin:
                values.clear()  # it was replaced before the minute began
            values.append(value)
        return max(values) - min(values) if values else 0.0


class StuckJudge:
    """Says which sensors have stopped measuring; told how busy the machine is."""

    def __init__(self) -> None:
        self._duty = Course()

    def note_duty(self, duty: float, now: float) -> None:
        """The fraction of time for which the machine works from now on."""
        self._duty.add(duty, now)

    def stuck(self, courses: Mapping[Key, Course], now: float) -> dict[Key, str]:
        """The sensors among `courses` that are stuck, each with what it failed to notice.

        A value is stuck that has not changed for a minute, while the duty did, or while every sensor that
        is not frozen itself moved, and those are as many at least.
        """
        frozen = {k: c for k, c in courses.items() if c.unchanged_seconds(now) >= STUCK_SECONDS}
        if not frozen:
            return {}
        spans = [course.span(now) for key, course in courses.items() if key not in frozen]
        least_move = min(spans) if spans and len(spans) >= len(frozen) else 0.0
        duty_change = self._duty.span(now, until=now - _RESPONSE_SECONDS)
        found: dict[Key, str] = {}
        for key, course in frozen.items():
            coarse = course.value is not None and course.value.is_integer()
            if duty_change >= _DUTY_CHANGE[coarse]:
                found[key] = "the load changed"
            elif least_move > _MOVED_TEMP[coarse]:
                found[key] = "the other sensors moved"
        return found
