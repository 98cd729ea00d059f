"""A trace laid out for drawing: minutes, and lines that end where nothing is known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bit_axon.profiling.timeline import Flags, Floats, Timeline, numbers
from bit_axon.profiling.trace import TraceRow
from bit_axon.tracking.drawing import running_mean

MEAN_SECONDS = 60.0  # of what swings too fast to be seen
_DOWN_SHARE = 0.012  # of the time shown, the width of a break in it
_STEPS_SHARE = 0.04  # of all steps, the window of the mean speed
_FEWEST_MEANS = 8  # so many windows, or the readings themselves are shown


@dataclass(frozen=True)
class Trace:
    """A run's trace.

    Attributes:
        name: of the run.
        timeline: of its rows.
        minutes: of each row `(N,)`, with the time in which the run was not running cut short.
        breaks: where it was cut (minutes), and how long the run was not running (seconds).
        break_minutes: how much is left of such a time.
        thresholds: in °C, by name; empty = unknown.
        policy: its name, if known.
    """

    name: str
    timeline: Timeline
    minutes: Floats
    breaks: tuple[tuple[float, float], ...]
    break_minutes: float
    thresholds: Mapping[str, float]
    policy: str | None = None

    @property
    def has_temperature(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.timeline.is_sensed.any())

    def column(self, of_row: Callable[[TraceRow], float | None]) -> Floats:
        """A column of numbers `(N,)`; where a row has no reading, the last one holds."""
        return numbers([of_row(row) for row in self.timeline.rows])[self.timeline.told]

    def line(self, values: Floats, shown: Flags | None = None) -> tuple[Floats, Floats]:
        """Points of a line that ends at every gap; `shown` picks the rows."""
        kept = np.flatnonzero(np.ones(len(values), dtype=bool) if shown is None else shown)
        ends = self._gaps_between(kept)
        return np.insert(self.minutes[kept], ends, np.nan), np.insert(values[kept], ends, np.nan)

    def running_mean(self, values: Floats, shown: Flags, window: int) -> Floats:
        """The mean `(N,)` over rows that are shown; it does not reach over a gap."""
        result = np.full(len(values), np.nan)
        kept = np.flatnonzero(shown)
        for part in np.split(kept, self._gaps_between(kept)):
            result[part] = running_mean(values[part].tolist(), 2 * (window // 2) + 1)
        return result

    def mean(self, values: Floats) -> tuple[Floats, Flags] | None:
        """The mean over `MEAN_SECONDS`, and the rows to draw; None for a trace too short for it."""
        polls = np.array([not row.action for row in self.timeline.rows], dtype=bool)
        known = polls & ~np.isnan(values)
        if known.sum() < 2:
            return None
        window = round(MEAN_SECONDS / max(float(np.median(np.diff(self.timeline.at_seconds[polls]))), 1e-3))
        if window < 2 or known.sum() < _FEWEST_MEANS * window:
            return None
        return self.running_mean(values, known, window), polls

    def _gaps_between(self, places: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Which of the places of rows come behind a gap."""
        gaps_before = np.concatenate([[0], np.cumsum(self.timeline.is_gap)])
        return np.flatnonzero(np.diff(gaps_before[places])) + 1


def build_trace(
    name: str, timeline: Timeline, thresholds: Mapping[str, float], policy: str | None = None
) -> Trace:
    """Lays a timeline out."""
    total_minutes = float(timeline.elapsed_seconds.sum()) / 60
    width = max(total_minutes, 1 / 60) * _DOWN_SHARE
    spans = timeline.elapsed_seconds / 60 + np.where(timeline.is_down, width, 0.0)
    minutes = np.cumsum(spans) - spans
    down_seconds = np.diff(timeline.at_seconds, append=timeline.at_seconds[-1:])
    places = np.flatnonzero(timeline.is_down)
    breaks = tuple((float(minutes[place]), float(down_seconds[place])) for place in places)
    return Trace(name, timeline, minutes, breaks, width, thresholds, policy)


def filtered_temps(trace: Trace) -> Floats | None:
    """What the policies decide on, in °C `(N,)`; None when it was not recorded."""
    values = np.where(trace.timeline.is_sensed, trace.column(lambda row: row.temp_filt_c), np.nan)
    return None if np.isnan(values).all() else values


def duties(trace: Trace) -> Floats:
    """Share of time at work `(N,)`: 0 in a pause, NaN where it is not known."""
    return np.where(trace.timeline.is_waiting, 0.0, numbers([row.duty for row in trace.timeline.rows]))


def watts(trace: Trace) -> tuple[str, Floats]:
    """Of the system, or of the GPU where only that is known."""
    system = trace.column(lambda row: row.sys_power_w)
    if not np.isnan(system).all():
        return "system", system
    return "GPU", trace.column(lambda row: row.gpu_power_w)


def step_speeds(trace: Trace) -> tuple[Floats, Flags]:
    """Active tokens per second `(N,)`, and the rows that are the first of their step."""
    values = numbers([row.tok_s_active for row in trace.timeline.rows])
    steps = np.array([row.opt_step for row in trace.timeline.rows])
    known = np.flatnonzero(values > 0)
    shown = np.zeros(len(values), dtype=bool)
    shown[known[np.diff(steps[known], prepend=-1) != 0]] = True
    return values, shown


def mean_speeds(trace: Trace, values: Floats, shown: Flags) -> Floats:
    """The running mean `(N,)` of what `step_speeds` gives."""
    return trace.running_mean(values, shown, round(float(shown.sum()) * _STEPS_SHARE))
