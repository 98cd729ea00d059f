"""The thermal figure of a run, and the one that lays several runs over each other."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from bit_axon.errors import ConfigError, problem
from bit_axon.files import write_atomic
from bit_axon.profiling.timeline import build_timeline
from bit_axon.profiling.trace import TRACE_FILE, read_trace
from bit_axon.tracking import thermal_panels as panels
from bit_axon.tracking.drawing import GREY, png, quieten, run_style, tidy
from bit_axon.tracking.facts import RunFacts, read_facts, run_name
from bit_axon.tracking.thermal_series import (
    Trace,
    build_trace,
    duties,
    filtered_temps,
    mean_speeds,
    step_speeds,
    watts,
)

THERMAL_FIGURE = "thermal.png"
_LEGEND_CHARACTERS = 110  # across the figure
_SHORTEST_MINUTES = 3.0  # a shorter trace is shown in seconds
_TICK_SECONDS, _MOST_TICKS = (1, 2, 5, 10, 20), 9

Panel = Callable[[Axes, Trace], None]


def write_thermal_figure(run_dir: Path) -> Path | None:
    """Draws `thermal.png` into the run directory from its trace.

    None when no row has a temperature, or there is no trace that can be read (`bit-axon thermal plot` says
    why it cannot be).
    """
    try:
        trace = _trace_of(run_dir, run_dir.resolve().name)
    except ConfigError:
        return None
    if not trace.has_temperature:
        return None
    path = run_dir / THERMAL_FIGURE
    write_atomic(path, png(thermal_figure(trace)))
    return path


def thermal_figure(trace: Trace) -> Figure:
    """Temperature over its tiers, with small panels under it for what else was recorded, over minutes."""
    small = _small_panels(trace)
    figure, axes = _stacked(len(small))
    axes[0].set_title(trace.name, loc="left", fontsize=11, color=GREY, pad=16)
    for axis, draw in zip(axes, (panels.draw_temperature, *small), strict=True):
        tidy(axis)
        draw(axis, trace)
    panels.draw_actions(axes, trace)
    _finish(figure, axes, [trace])
    return figure


def overlay_figure(run_dirs: Sequence[Path]) -> Figure:
    """Temperature, duty and speed of several runs on the same axes, each from its own start.

    Raises:
        ConfigError: a run has no trace that can be read, or none of them has a temperature.
    """
    names = [run_name(run_dir.resolve()) for run_dir in run_dirs]
    if len(set(names)) < len(names):
        names = [str(run_dir) for run_dir in run_dirs]
    traces = [_trace_of(run_dir, name) for run_dir, name in zip(run_dirs, names, strict=True)]
    shown = [trace for trace in traces if trace.has_temperature]
    if not shown:
        got = "none in " + ", ".join(str(run_dir / TRACE_FILE) for run_dir in run_dirs)
        raise ConfigError(problem("a temperature to draw", got, "Give runs that had a sensor."))
    figure, axes = _stacked(2)
    for axis in axes:
        tidy(axis)
    ranges = [_draw_over(axes, trace, run_style(number)) for number, trace in enumerate(shown)]
    common = shown[0].thresholds if all(t.thresholds == shown[0].thresholds for t in shown) else {}
    lowest, highest = min(low for low, _ in ranges), max(high for _, high in ranges)
    panels.limit_temperature(axes[0], lowest, highest, common)
    panels.draw_thresholds(axes[0], {name: temp for name, temp in common.items() if name in panels.TIERS})
    panels.limit_duty(axes[1])
    panels.limit_speed(axes[2])
    _finish(figure, axes, shown)
    return figure


def _draw_over(axes: Sequence[Axes], trace: Trace, style: Mapping[str, Any]) -> tuple[float, float]:
    """Lines of one run; returns its lowest and highest temperature drawn."""
    filtered = filtered_temps(trace)
    temps = trace.timeline.temps if filtered is None else filtered
    axes[0].plot(*trace.line(temps), label=trace.name, linewidth=1.6, **style)
    duty = duties(trace)
    values, shown = trace.mean(duty) or (duty, ~np.isnan(duty))
    axes[1].plot(*trace.line(values, shown), linewidth=1.3, **style)
    speeds, steps = step_speeds(trace)
    axes[2].plot(*trace.line(mean_speeds(trace, speeds, steps), steps), linewidth=1.3, **style)
    return float(np.nanmin(temps)), float(np.nanmax(temps))


def _trace_of(run_dir: Path, name: str) -> Trace:
    timeline = build_timeline(read_trace(run_dir / TRACE_FILE))
    facts = _thermal_facts(read_facts(run_dir))
    limits = [found for values in facts if (found := _numbers(values.get("thresholds")))]
    policies = [str(values["policy"]) for values in facts if values.get("policy")]
    return build_trace(name, timeline, next(iter(limits), {}), next(iter(policies), None))


def _thermal_facts(facts: RunFacts) -> list[Mapping[str, Any]]:
    """What the run's files say of its limits; the result knows best, and is written last."""
    found = [values.get("thermal") for values in (facts.result, facts.repro, facts.config)]
    return [values for values in found if isinstance(values, Mapping)]


def _numbers(values: Any) -> dict[str, float]:
    known = values if isinstance(values, Mapping) else {}
    return {str(name): float(value) for name, value in known.items() if isinstance(value, int | float)}


def _small_panels(trace: Trace) -> list[Panel]:
    wanted: list[tuple[Panel, bool]] = [
        (panels.draw_duty, not np.isnan(duties(trace)).all()),
        (panels.draw_speed, bool(step_speeds(trace)[1].any())),
        (panels.draw_pressure, any(row.pressure is not None for row in trace.timeline.rows)),
        (panels.draw_power, not np.isnan(watts(trace)[1]).all()),
    ]
    return [draw for draw, is_there in wanted if is_there]


def _stacked(small: int) -> tuple[Figure, list[Axes]]:
    """A large panel over small ones, on one time axis."""
    quieten()
    figure = Figure(figsize=(9.0, 4.2 + 1.2 * small), layout="constrained")
    FigureCanvasAgg(figure)
    heights = [3.6] + [1.0] * small
    grid = figure.subplots(1 + small, 1, sharex=True, squeeze=False, height_ratios=heights)
    return figure, list(grid[:, 0])


def _finish(figure: Figure, axes: Sequence[Axes], traces: Sequence[Trace]) -> None:
    end = max(*(float(trace.minutes[-1]) for trace in traces), 1 / 60)
    axes[0].set_xlim(-0.01 * end, 1.01 * end)
    unit = "minutes" if end > _SHORTEST_MINUTES else "seconds"
    if unit == "seconds":
        step = next(step for step in _TICK_SECONDS if end * 60 <= _MOST_TICKS * step)
        axes[-1].xaxis.set_major_locator(MultipleLocator(step / 60))
        axes[-1].xaxis.set_major_formatter(lambda minute, _: f"{minute * 60:.0f}")
    is_cut = any(trace.breaks for trace in traces)
    axes[-1].set_xlabel(f"{unit}, without the time in which the run was off" if is_cut else unit)
    figure.align_ylabels(axes)
    _, labels = axes[0].get_legend_handles_labels()
    columns = _LEGEND_CHARACTERS // (max(len(label) for label in labels) + 8)
    figure.legend(loc="outside upper left", ncols=min(4, max(1, columns)), frameon=False, fontsize=9)
