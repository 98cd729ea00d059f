"""From many sensors, some of which lie or come and go, to a few temperatures that mean the same each time.

The mean is always taken over the whole population: a sensor that gives no value in one poll takes part with
its last. A mean over whichever sensors happened to answer would jump without anything getting warmer.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from bit_axon.profiling.filters import fraction_covered
from bit_axon.profiling.reading import Group, SensorValue
from bit_axon.profiling.stuck import STUCK_SECONDS, Course, StuckJudge

# A GPU without power loses the excess of its hot spots over the die with a time constant of about 2.4 s
# (the fitted RC model). Twice that errs on the warm side: a pause ends late, never early.
GATED_SECONDS: Final = 5.0

_DIE: Final[tuple[Group, ...]] = ("cpu", "gpu")
_LISTED: Final = 4  # names in an event

_Key = tuple[Group, str]


@dataclass(frozen=True)
class Aggregate:
    """What the sensors say together; None = not known.

    Attributes:
        cpu_avg_c: mean of the CPU's sensors, the held ones included; °C as all of them.
        cpu_max_c: the highest of them.
        gpu_avg_c: mean of the GPU's sensors, or an estimate while the GPU is without power.
        gpu_max_c: the highest of them, or an estimate.
        chassis_c: mean of the slow sensors.
        n_valid: sensors of CPU and GPU that gave a value in range in this very poll.
        notes: what happened to stuck sensors, for a person.
        lost: groups of the die that had a value and now have none.
    """

    cpu_avg_c: float | None
    cpu_max_c: float | None
    gpu_avg_c: float | None
    gpu_max_c: float | None
    chassis_c: float | None
    n_valid: int
    notes: tuple[str, ...] = ()
    lost: tuple[Group, ...] = ()


@dataclass
class _Sensor:
    temp_c: float
    seen_seconds: float
    stuck: bool = False
    course: Course = field(default_factory=Course)


@dataclass
class _Gpu:
    """What is believed of the GPU, measured or estimated."""

    avg_c: float
    max_c: float
    seen_seconds: float

    def approach(self, temp_c: float, elapsed_seconds: float) -> None:
        share = fraction_covered(elapsed_seconds, GATED_SECONDS)
        self.avg_c += (temp_c - self.avg_c) * share
        self.max_c += (temp_c - self.max_c) * share


class Population:
    """The sensors of one source over time.

    Args:
        valid_temp: lowest and highest value to be believed, in °C. Sensors of parts without power answer
            -4 to 8.4, broken ones 0, NaN or more than 130.
        hold_seconds: how long a sensor without a valid value takes part with its last.
        judge: finds stuck sensors; None = a value may stay the same for ever.
    """

    def __init__(self, valid_temp: tuple[float, float], hold_seconds: float, judge: StuckJudge | None = None):
        self._lowest_temp, self._highest_temp = valid_temp
        self._hold_seconds = hold_seconds
        self._judge = judge
        self._sensors: dict[_Key, _Sensor] = {}
        self._gpu: _Gpu | None = None
        self._updated_seconds = 0.0
        self._answering: set[Group] = set()

    def has_valid(self, sensors: Iterable[SensorValue]) -> bool:
        """Whether a sensor of CPU or GPU among them gives a value to be believed."""
        return any(self._counts(key, temp) for key, temp in self._in_range(sensors).items())

    def update(self, sensors: Sequence[SensorValue], now: float) -> Aggregate:
        """Takes one answer of the source, at the moment `now` in seconds."""
        fresh = self._in_range(sensors)
        notes = [*self._take(fresh, now), *self._drop_stuck(now)]
        self._forget_old(now)
        counted = {key for key in fresh if key[0] in _DIE and not self._sensors[key].stuck}
        cpu, chassis = self._members("cpu"), self._members("chassis")
        cpu_avg = fmean(cpu) if cpu else None
        measured = any(group == "gpu" for group, _ in counted)
        self._update_gpu(measured, self._is_gated(sensors), cpu_avg, now)
        self._updated_seconds = now
        return Aggregate(
            cpu_avg_c=cpu_avg,
            cpu_max_c=max(cpu, default=None),
            gpu_avg_c=self._gpu.avg_c if self._gpu else None,
            gpu_max_c=self._gpu.max_c if self._gpu else None,
            chassis_c=fmean(chassis) if chassis else None,
            n_valid=len(counted),
            notes=tuple(notes),
            lost=self._lost({"cpu": cpu_avg is not None, "gpu": self._gpu is not None}),
        )

    def reset(self) -> None:
        """Forgets all values, but not which sensors were stuck: those have to move first."""
        self._sensors = {key: sensor for key, sensor in self._sensors.items() if sensor.stuck}
        self._gpu = None
        self._answering = set()

    def _in_range(self, sensors: Iterable[SensorValue]) -> dict[_Key, float]:
        """Values to be believed; of sensors with one name the highest counts."""
        found: dict[_Key, float] = {}
        for sensor in sensors:
            temp, key = sensor.temp_c, (sensor.group, sensor.name)
            if math.isfinite(temp) and self._lowest_temp <= temp <= self._highest_temp:
                found[key] = max(temp, found.get(key, temp))
        return found

    def _counts(self, key: _Key, temp: float) -> bool:
        known = self._sensors.get(key)
        return key[0] in _DIE and not (known is not None and known.stuck and known.temp_c == temp)

    def _take(self, fresh: dict[_Key, float], now: float) -> list[str]:
        """Books the values; a stuck sensor that moves is taken back."""
        moving = []
        for key, temp in fresh.items():
            sensor = self._sensors.setdefault(key, _Sensor(temp, now))
            if sensor.stuck and temp != sensor.temp_c:
                sensor.stuck = False
                moving.append(key[1])
            sensor.temp_c, sensor.seen_seconds = temp, now
            sensor.course.add(temp, now)
        return [f"{_names(moving)} moved again: taken into account again."] if moving else []

    def _drop_stuck(self, now: float) -> list[str]:
        """Slow sensors of the case are not judged: a battery keeps its temperature for minutes."""
        if self._judge is None:
            return []
        judged = {k: s.course for k, s in self._sensors.items() if _is_judged(k, s, now)}
        notes: dict[str, list[str]] = {}
        for key, reason in self._judge.stuck(judged, now).items():
            self._sensors[key].stuck = True
            notes.setdefault(reason, []).append(f"{key[1]} ({self._sensors[key].temp_c:g} °C)")
        return [
            f"{_names(names)} did not change for {STUCK_SECONDS:g} s while {reason}: ignored until it moves."
            for reason, names in notes.items()
        ]

    def _forget_old(self, now: float) -> None:
        self._sensors = {
            key: sensor
            for key, sensor in self._sensors.items()
            if sensor.stuck or now - sensor.seen_seconds <= self._hold_seconds
        }

    def _members(self, group: Group) -> list[float]:
        return [s.temp_c for key, s in self._sensors.items() if key[0] == group and not s.stuck]

    def _lost(self, is_known: dict[Group, bool]) -> tuple[Group, ...]:
        before, self._answering = self._answering, {group for group in _DIE if is_known[group]}
        return tuple(group for group in _DIE if group in before - self._answering)

    def _is_gated(self, sensors: Iterable[SensorValue]) -> bool:
        """Whether the GPU answers as parts without power do: a number, but one far too cold."""
        return any(s.group == "gpu" and -math.inf < s.temp_c < self._lowest_temp for s in sensors)

    def _update_gpu(self, measured: bool, gated: bool, cpu_avg: float | None, now: float) -> None:
        """Measured if it can be; approaching the CPU on the same die while without power; else held."""
        if measured:
            members = self._members("gpu")
            self._gpu = _Gpu(fmean(members), max(members), now)
        elif self._gpu is None:
            return
        elif gated and cpu_avg is not None:
            self._gpu.approach(cpu_avg, now - self._updated_seconds)
            self._gpu.seen_seconds = now
        elif now - self._gpu.seen_seconds > self._hold_seconds:
            self._gpu = None


def _is_judged(key: _Key, sensor: _Sensor, now: float) -> bool:
    return key[0] in _DIE and not sensor.stuck and sensor.seen_seconds == now


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"Sensor {', '.join(names[:_LISTED])}{more}"
