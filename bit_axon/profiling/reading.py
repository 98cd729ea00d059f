"""What a source says (`RawReading`) and what the monitor makes of it (`Reading`).

A value that is not known is None, never 0.
"""

from dataclasses import dataclass
from typing import Literal

Group = Literal["cpu", "gpu", "chassis", "other"]
Quality = Literal["ok", "held", "stale", "invalid", "gap"]

# Darwin's thermal pressure on macOS, in order.
PRESSURE_NAMES = ("nominal", "moderate", "heavy", "trapping", "sleeping")
PRESSURE_HEAVY, PRESSURE_TRAPPING = 2, 3


@dataclass(frozen=True)
class SensorValue:
    """One sensor as it answered, sentinels and nonsense included: the monitor sorts them out.

    `cpu` and `gpu` are temperatures of the die and decide; `chassis` (battery, drive) is a slow proxy of
    the case; `other` is shown by the doctor alone.
    """

    name: str
    group: Group
    temp_c: float


@dataclass(frozen=True)
class RawReading:
    """One answer of a source."""

    sensors: tuple[SensorValue, ...] = ()
    pressure: int | None = None  # 0 nominal .. 4 sleeping
    throttle_bits: int | None = None  # the source's own mask of reasons for lower clocks
    sys_power_w: float | None = None
    gpu_power_w: float | None = None
    gpu_mhz: float | None = None
    gpu_util: float | None = None  # 0 to 1
    fan_rpm: float | None = None


@dataclass(frozen=True)
class Reading:
    """One poll, filtered.

    Attributes:
        number: counts polls, so that a reading already seen is not taken for a new one.
        t_mono_s: the clock's monotonic seconds.
        t_wall_ms: Unix time in milliseconds.
        source: name of the source that answered.
        quality: ok; held (the last valid values, for a short time); stale (too old to mean anything);
            invalid (no sensor gave a value in range); gap (first after sleep or a stall).
        temp_ctrl_c: the control statistic through a short median; None when unknown.
        temp_filt_c: its mean with exponential weights; what the policies decide on.
        gaps: how often time was lost so far; who reads seldom sees a gap by it.
    """

    number: int
    t_mono_s: float
    t_wall_ms: int
    source: str
    quality: Quality
    temp_ctrl_c: float | None = None
    temp_filt_c: float | None = None
    cpu_avg_c: float | None = None
    cpu_max_c: float | None = None
    gpu_avg_c: float | None = None
    gpu_max_c: float | None = None
    chassis_c: float | None = None
    n_valid: int = 0
    raw: RawReading = RawReading()
    gaps: int = 0

    @property
    def pressure(self) -> int | None:
        """0 nominal to 4 sleeping; None where there is no such signal."""
        return self.raw.pressure


@dataclass(frozen=True)
class Event:
    """Something about the sensors that a person should know, and a row of the trace."""

    kind: Literal["source", "lost", "missing", "stuck", "gap", "late"]
    text: str
