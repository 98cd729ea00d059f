"""Source `replay`: the readings of an earlier run, from its thermal.csv."""

import math
from bisect import bisect_right
from itertools import pairwise
from pathlib import Path
from statistics import median

from bit_axon.errors import ConfigError, SensorError, problem
from bit_axon.profiling.clock import Clock
from bit_axon.profiling.reading import Group, RawReading, SensorValue
from bit_axon.profiling.sensors.base import Probe
from bit_axon.profiling.trace import TraceRow, read_trace

_SHORTEST_HOLD_SECONDS = 5.0
_HOLD_POLLS = 3.0  # a row stands for this many of the recording's own poll intervals
_UNANSWERED = ("held", "stale")  # what a monitor calls a poll without an answer


class ReplaySource:
    """Answers with the row whose time has come, counted from the first reading.

    A row holds until the next, yet only for a short time: after the recording's end, in its gaps and where
    the recorded source gave no answer, this one gives none either.

    Args:
        path: the thermal.csv of a run.
        clock: of the replay.
    """

    name = "replay"

    def __init__(self, path: Path, clock: Clock):
        self._path, self._clock = path, clock
        self._rows: list[TraceRow] = []
        self._moments: list[float] = []
        self._hold_seconds = _SHORTEST_HOLD_SECONDS
        self._began: float | None = None

    def probe(self) -> Probe:
        """Reads the file; not ok without a single reading of a sensor in it."""
        try:
            rows = [row for row in read_trace(self._path) if not row.action]
        except ConfigError as error:
            return Probe(False, str(error))
        if not any(_sensors(row) or row.pressure is not None for row in rows):
            return Probe(False, f"{self._path} has no reading of a sensor")
        self._rows = rows
        self._moments = [row.t_mono_s - rows[0].t_mono_s for row in rows]
        distances = [later - earlier for earlier, later in pairwise(self._moments)]
        self._hold_seconds = max(_SHORTEST_HOLD_SECONDS, _HOLD_POLLS * median(distances or [0.0]))
        recorded = sorted({row.source for row in rows if row.source})
        origin = f" of {', '.join(recorded)}" if recorded else ""
        count = f"{len(rows)} reading{'s' if len(rows) > 1 else ''}"
        return Probe(True, f"{count}{origin} over {self._moments[-1]:.0f} s, from {self._path}")

    def read(self) -> RawReading:
        """The row that is due.

        Raises:
            SensorError: the recording has no answer for this moment.
        """
        now = self._clock.monotonic()
        if self._began is None:
            self._began = now
        elapsed = now - self._began
        index = max(0, bisect_right(self._moments, elapsed + 1e-6) - 1)
        row = self._rows[index]
        if elapsed - self._moments[index] > self._hold_seconds or row.quality in _UNANSWERED:
            raise SensorError(self._nothing_at(elapsed))
        return RawReading(
            sensors=_sensors(row),
            pressure=row.pressure,
            throttle_bits=row.throttle_bits,
            sys_power_w=_known(row.sys_power_w),
            gpu_power_w=_known(row.gpu_power_w),
            gpu_mhz=_known(row.gpu_mhz),
            gpu_util=_known(row.gpu_util),
            fan_rpm=_known(row.fan_rpm),
        )

    def close(self) -> None:
        """There is nothing to give back; the recording goes on from where it is."""

    def _nothing_at(self, elapsed_seconds: float) -> str:
        ended = elapsed_seconds > self._moments[-1]
        return problem(
            f"a recorded reading at {elapsed_seconds:.0f} s",
            f"a recording that ends at {self._moments[-1]:.0f} s" if ended else "none there",
            "Replay a longer recording." if ended else "The recorded source gave no answer then.",
            where=str(self._path),
        )


def _sensors(row: TraceRow) -> tuple[SensorValue, ...]:
    """Sensors whose mean and maximum are those of the row; a group that the row lacks is left out."""
    chassis = () if math.isnan(row.chassis_c) else (SensorValue("chassis", "chassis", row.chassis_c),)
    return (
        *_pair("cpu", row.cpu_avg_c, row.cpu_max_c),
        *_pair("gpu", row.gpu_avg_c, row.gpu_max_c),
        *chassis,
    )


def _pair(group: Group, mean_temp: float, max_temp: float) -> tuple[SensorValue, ...]:
    if math.isnan(mean_temp):
        return ()
    spread = 0.0 if math.isnan(max_temp) else max_temp - mean_temp
    return (
        SensorValue(f"{group} high", group, mean_temp + spread),
        SensorValue(f"{group} low", group, mean_temp - spread),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
