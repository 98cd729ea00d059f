"""The panels of a thermal figure: temperature over its tiers, duty, speed, pressure and power."""

import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from bit_axon.profiling.reading import PRESSURE_NAMES
from bit_axon.profiling.timeline import Floats
from bit_axon.tracking.drawing import BLUE, GREEN, GREY, ORANGE, RED
from bit_axon.tracking.thermal_series import (
    MEAN_SECONDS,
    Trace,
    duties,
    filtered_temps,
    mean_speeds,
    step_speeds,
    watts,
)

_BANDS = (("warm", "pause", "#fdf4d8"), ("pause", "stop", "#fbe0c8"), ("stop", "", "#f6cccc"))
TIERS = ("warm", "pause", "stop")
_LABEL_COLORS = {"warm": "#8a6d1d", "target": GREEN, "resume": GREY, "pause": "#b35a12", "stop": RED}
_PRESSURE_COLORS = ("#b9c0c7", "#e9b949", ORANGE, RED, "#7a1f1f")
_WAITING = "#9aa3ad"
_LABEL_POINTS = 8.0
_LINE_HEIGHT = 1.25
_HEADROOM = 1.05
_FEW_ROWS = 60  # each is seen
_MARGIN_TEMP = 3.0  # °C
_CHARACTER_SHARE = 0.011  # of the width of a panel
# Not named at the top: they are seen in another way, or at every start.
_UNNAMED = ("", "start", "resume_run", "pause", "resume", "cooldown", "stop")


def draw_temperature(axis: Axes, trace: Trace) -> None:
    """Readings light, their mean strong, over the tiers."""
    temps, filtered = trace.timeline.temps, filtered_temps(trace)
    light = filtered is not None
    axis.plot(
        *trace.line(temps), color=BLUE, label="reading", marker="." if len(temps) < _FEW_ROWS else "",
        alpha=0.35 if light else 1.0, linewidth=0.8 if light else 1.4,
    )  # fmt: skip
    if filtered is not None:
        axis.plot(*trace.line(filtered), color=BLUE, linewidth=1.8, label="filtered")
    shown = {*TIERS}
    shown |= {"target"} if trace.policy in (None, "pacing") else set()
    shown |= {"resume"} if trace.timeline.waits() else set()
    lowest, highest = float(np.nanmin(temps)), float(np.nanmax(temps))
    limit_temperature(axis, lowest, highest, trace.thresholds)
    draw_thresholds(axis, {name: temp for name, temp in trace.thresholds.items() if name in shown})


def limit_temperature(axis: Axes, lowest: float, highest: float, thresholds: Mapping[str, float]) -> None:
    """Room for the data, and for the tier above it so that its distance is seen."""
    above = [thresholds[name] for name in TIERS if thresholds.get(name, 0.0) > highest]
    axis.set_ylim(lowest - _MARGIN_TEMP, max(highest, min(above, default=highest)) + _MARGIN_TEMP)
    axis.set_ylabel("°C")


def draw_thresholds(axis: Axes, thresholds: Mapping[str, float]) -> None:
    """Bands and lines behind the data, within the axis's limits, and their names at the right edge."""
    bottom, top = axis.get_ylim()
    for low, high, color in _BANDS:
        if low in thresholds:
            start, end = max(bottom, thresholds[low]), min(top, thresholds.get(high, top))
            if start < end:
                axis.axhspan(start, end, color=color, linewidth=0, zorder=0)
    for name, style in (("target", "--"), ("resume", ":")):
        if name in thresholds:
            axis.axhline(
                thresholds[name], color=_LABEL_COLORS[name], linestyle=style, linewidth=1.1, zorder=1
            )
    inside = {name: t for name, t in thresholds.items() if name in _LABEL_COLORS and bottom <= t <= top}
    _name_thresholds(axis, inside)


def _name_thresholds(axis: Axes, thresholds: Mapping[str, float]) -> None:
    """Names moved apart where they would overlap."""
    names = sorted(thresholds, key=lambda name: thresholds[name])
    bottom, top = axis.get_ylim()
    height_points = axis.get_window_extent().height / axis.figure.dpi * 72
    distance = (top - bottom) * _LABEL_POINTS * _LINE_HEIGHT / height_points
    for name, place in zip(names, apart([thresholds[name] for name in names], distance), strict=True):
        _note(axis, f"{name} {thresholds[name]:g}", place, _LABEL_COLORS[name])


def _note(axis: Axes, text: str, place: float, color: str) -> None:
    """A word at the right edge, at a height in data units."""
    axis.annotate(
        text, (1.0, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
        va="center", fontsize=_LABEL_POINTS, color=color, annotation_clip=False,
    )  # fmt: skip


def apart(places: Sequence[float], distance: float) -> list[float]:
    """Ascending places, moved as little as it takes for neighbours to be `distance` apart."""
    groups: list[list[float]] = []  # each is spread around its mean
    for place in places:
        groups.append(_spread([place], distance))
        while len(groups) > 1 and groups[-1][0] < groups[-2][-1] + distance * (1 - 1e-9):
            last = groups.pop()
            groups[-1] = _spread(groups[-1] + last, distance)
    return list(itertools.chain.from_iterable(groups))


def _spread(places: Sequence[float], distance: float) -> list[float]:
    middle, half = sum(places) / len(places), (len(places) - 1) / 2
    return [middle + distance * (index - half) for index in range(len(places))]


def draw_actions(axes: Sequence[Axes], trace: Trace) -> None:
    """Grey where the run waited, red lines where it was stopped, hatches where it was not running."""
    minutes, timeline = trace.minutes, trace.timeline
    pauses = [(minutes[start], minutes[end] - minutes[start]) for start, end in timeline.waits()]
    whole = axes[0].get_xaxis_transform()
    if pauses:
        axes[0].broken_barh(
            pauses, (0, 1), transform=whole, color=_WAITING, alpha=0.35, linewidth=0, label="paused"
        )
    stops = [minutes[place] for place, row in enumerate(timeline.rows) if row.action == "stop"]
    for number, axis in enumerate(axes):
        for index, minute in enumerate(stops):
            label = "stopped" if number == index == 0 else "_"
            axis.axvline(minute, color=RED, linewidth=1.3, zorder=3, label=label)
        for start, _ in trace.breaks:
            axis.axvspan(
                start, start + trace.break_minutes, facecolor="white", edgecolor=_WAITING, hatch="////",
                linewidth=0, zorder=1.5,
            )  # fmt: skip
    named = {row.action for row in timeline.rows}.difference(_UNNAMED)
    _name_actions(axes[0], trace, named)


def _name_actions(axis: Axes, trace: Trace, named: Collection[str]) -> None:
    """Names of other actions and of breaks, along the top; those that would overlap are left out."""
    minutes, rows = trace.minutes, trace.timeline.rows
    marks = [(float(minutes[place]), row.action) for place, row in enumerate(rows) if row.action in named]
    marks += [(start, f"off {_duration(seconds)}") for start, seconds in trace.breaks]
    if not marks:
        return  # an empty line outside the panel would upset the layout
    whole, free_from = axis.get_xaxis_transform(), -1.0
    places = [minute for minute, _ in marks]
    axis.plot(places, [1.0] * len(places), "v", color=GREY, markersize=4, transform=whole, clip_on=False)
    for minute, text in sorted(marks):
        if minute >= free_from:
            axis.annotate(
                text, (minute, 1.0), xycoords=whole, xytext=(0, 5), textcoords="offset points",
                ha="center", fontsize=_LABEL_POINTS, color=GREY,
            )  # fmt: skip
            free_from = minute + float(minutes[-1]) * (len(text) + 3) * _CHARACTER_SHARE


def _duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02}"


def draw_duty(axis: Axes, trace: Trace) -> None:
    """Share of time at work that the policy allowed; 0 in a pause."""
    _draw_with_mean(axis, trace, duties(trace), GREEN, steps=True)
    limit_duty(axis)


def limit_duty(axis: Axes) -> None:
    """From 0 to 100 %."""
    axis.set_ylim(0.0, 1.05)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_yticks([0.0, 0.5, 1.0])
    axis.set_ylabel("duty", fontsize=9)


def _draw_with_mean(axis: Axes, trace: Trace, values: Floats, color: str, *, steps: bool = False) -> None:
    """The values, light under their mean where they may swing too fast to be seen."""
    mean = trace.mean(values)
    axis.plot(
        *trace.line(values), color=color, alpha=0.25 if mean else 1.0, linewidth=0.6 if mean else 1.2,
        drawstyle="steps-post" if steps else "default",
    )  # fmt: skip
    if mean is not None:
        means, shown = mean
        axis.plot(*trace.line(means, shown), color=color, linewidth=1.5)
        _note(axis, f"mean of {MEAN_SECONDS:.0f} s", float(means[~np.isnan(means)][-1]), color)


def draw_speed(axis: Axes, trace: Trace) -> None:
    """Tokens per active second: a dot for each step, and their running mean."""
    values, shown = step_speeds(trace)
    axis.plot(trace.minutes[shown], values[shown], ".", color=ORANGE, alpha=0.3, markersize=2.5)
    axis.plot(*trace.line(mean_speeds(trace, values, shown), shown), color=ORANGE, linewidth=1.5)
    limit_speed(axis)


def limit_speed(axis: Axes) -> None:
    """From 0 to a little above the data, which are to be there already."""
    axis.set_ylim(0.0, _HEADROOM * axis.get_ylim()[1])
    axis.set_ylabel("tokens/s\nactive", fontsize=9)


def draw_pressure(axis: Axes, trace: Trace) -> None:
    """The system's own level: a bar at the height of each."""
    levels = trace.column(lambda row: row.pressure)
    spans = np.where(trace.timeline.is_gap, 0.0, trace.timeline.elapsed_seconds / 60)
    for level, color in enumerate(_PRESSURE_COLORS):
        places = np.flatnonzero(levels == level)
        bars = [(float(trace.minutes[place]), float(spans[place])) for place in places]
        axis.broken_barh(bars, (level - 0.3, 0.6), color=color, linewidth=0)
    highest = max(2, int(np.nanmax(levels)))
    axis.set_ylim(-0.5, highest + 0.5)
    axis.set_yticks(range(highest + 1), PRESSURE_NAMES[: highest + 1])
    axis.set_ylabel("pressure", fontsize=9)


def draw_power(axis: Axes, trace: Trace) -> None:
    """Watts of the system, or of the GPU."""
    name, values = watts(trace)
    _draw_with_mean(axis, trace, values, GREY)
    axis.set_ylim(0.0, axis.get_ylim()[1])
    axis.set_ylabel(f"{name} W", fontsize=9)
