"""Figures of a sweep: how it went, what mattered, which values were good, and the trials' own curves."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bit_axon.files import write_atomic
from bit_axon.sweep.reporting.importance import importances
from bit_axon.sweep.reporting.labels import shown_range, value_text
from bit_axon.sweep.reporting.parallel import parallel_figure
from bit_axon.sweep.reporting.report import Report, Row, best_so_far, order_of_end
from bit_axon.tracking.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    RUN_COLORS,
    logarithmic,
    png,
    quieten,
    tidy,
)

_LOGARITHMIC_RATIO: Final = 20.0
_BEYOND: Final = "beyond"  # the group of the arrows on an edge
_COMPLETE: Final = {"marker": "o", "color": BLUE}
_PRUNED: Final = {"marker": "o", "color": GREY, "fillstyle": "none", "markersize": 5.0}
_FAILED: Final = {"marker": "x", "color": RED, "markersize": 6.0}


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Draws what there is enough for into `folder`; returns the files."""
    quieten()
    drawn: Mapping[str, Callable[[Report], Figure | None]] = {
        "history.png": history_figure,
        "importance.png": importance_figure,
        "parallel.png": parallel_figure,
        "curves.png": curves_figure,
    }
    written = []
    for name, draw in drawn.items():
        figure = draw(report)
        if figure is not None:
            write_atomic(folder / name, png(figure))
            written.append(folder / name)
    return written


def history_figure(report: Report) -> Figure | None:
    """The objective of each trial in the order they ended, and the best so far."""
    rows = order_of_end(report)
    if not any(row.state == "complete" for row in rows):
        return None
    figure, axes = _panels(len(report.objectives))
    for place, (axis, objective) in enumerate(zip(axes, report.objectives, strict=True)):
        known = [(at, row.values[place]) for at, row in enumerate(rows) if row.values]
        _limit(axis, [value for _, value in known], objective.sign)
        _dots(axis, known, "complete", _COMPLETE)
        if len(report.objectives) == 1:
            _draw_unfinished(axis, rows, objective.sign)
            _draw_best(axis, report, len(rows))
        arrow = "less is better" if objective.sign > 0 else "more is better"
        axis.set_ylabel(f"{objective.metric}\n({arrow})")
        tidy(axis)
    _explain(axes)
    axes[-1].set_xlabel("trials, in the order they ended")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(8.0, 1.2 + 3.0 * count), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])


def _explain(axes: Sequence[Axes]) -> None:
    """One legend for all panels, above the first."""
    known = [axis.get_legend_handles_labels() for axis in axes]
    named = {
        label: handle for handles, labels in known for handle, label in zip(handles, labels, strict=True)
    }
    arrows = [line.get_marker() for axis in axes for line in axis.lines if line.get_gid() == _BEYOND]
    if arrows:
        sample = Line2D([], [], linestyle="", marker=arrows[0], color=GREY, fillstyle="none")
        named["beyond the axis"] = sample
    axes[0].legend(
        list(named.values()), list(named), frameon=False, fontsize=9, ncols=len(named), loc="lower left",
        bbox_to_anchor=(0.0, 1.02), borderaxespad=0.0, columnspacing=1.4, handletextpad=0.4,
    )  # fmt: skip


def _limit(axis: Axes, values: Sequence[float], sign: int) -> None:
    """Sets the limits so that a few bad trials do not flatten the rest."""
    low, high = shown_range(values, sign)
    if low > 0 and high / low > _LOGARITHMIC_RATIO:
        logarithmic(axis)
        axis.set_ylim(low / 1.2, high * 1.3)
    else:
        margin = (high - low) * 0.12 or abs(high) * 0.1 or 1.0
        axis.set_ylim(low - margin, high + margin)


def _dots(axis: Axes, points: Sequence[tuple[int, float]], label: str, style: Mapping[str, Any]) -> None:
    """Points with a name; of those beyond the axis there is an arrow on its edge."""
    bottom, top = axis.get_ylim()
    inside = [(at, value if bottom <= value <= top else math.nan) for at, value in points]
    if points:
        axis.plot(*zip(*inside, strict=True), linestyle="", label=label, clip_on=False, **style)
    for edge, marker in ((top, "^"), (bottom, "v")):
        places = [at for at, value in points if (value > top if marker == "^" else value < bottom)]
        if places:
            arrows = {**style, "marker": marker, "gid": _BEYOND}
            axis.plot(places, [edge] * len(places), linestyle="", label="_", clip_on=False, **arrows)


def _draw_unfinished(axis: Axes, rows: Sequence[Row], sign: int) -> None:
    """Pruned trials at what they reported last, failed ones on the bad edge."""
    last = [(at, row.last_value) for at, row in enumerate(rows) if row.state == "pruned"]
    _dots(axis, [(at, value) for at, value in last if value is not None], "pruned (last value)", _PRUNED)
    edge = axis.get_ylim()[1 if sign > 0 else 0]
    failed = [(at, edge) for at, row in enumerate(rows) if row.state in ("failed", "retried")]
    _dots(axis, failed, "failed", _FAILED)


def _draw_best(axis: Axes, report: Report, count: int) -> None:
    steps = best_so_far(report)
    if not steps:
        return
    values = [row.values[0] for _, row in steps if row.values]
    places = [place for place, _ in steps]
    axis.plot(
        [*places, max(count - 1, places[-1])], [*values, values[-1]], color=ORANGE, linewidth=1.8,
        drawstyle="steps-post", label="best so far",
    )  # fmt: skip
    axis.annotate(
        f"trial {steps[-1][1].number}: {value_text(values[-1])}", (places[-1], values[-1]), xytext=(4, -12),
        textcoords="offset points", color=ORANGE, fontsize=9, annotation_clip=False,
    )  # fmt: skip


def importance_figure(report: Report) -> Figure | None:
    """Bars: the share of each parameter in the spread of the objective; one colour per objective."""
    shares = [importances(report, place) for place in range(len(report.objectives))]
    names = list(dict.fromkeys(name for found in shares for name in found))
    if not names:
        return None
    figure = Figure(figsize=(8.0, 1.3 + 0.42 * len(names) * len(shares)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    height = 0.8 / len(shares)
    for number, (objective, found) in enumerate(zip(report.objectives, shares, strict=True)):
        places = [row + number * height for row in range(len(names))]
        widths = [found.get(name, 0.0) for name in names]
        color = GREEN if len(shares) == 1 else RUN_COLORS[number % len(RUN_COLORS)]
        axis.barh(places, widths, height=0.9 * height, color=color, label=objective.metric)
        for place, width in zip(places, widths, strict=True):
            axis.annotate(
                f"{width:.0%}", (width, place), xytext=(4, 0), textcoords="offset points", va="center",
                fontsize=9, color=GREY,
            )  # fmt: skip
    axis.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names)
    axis.invert_yaxis()
    axis.set_xlim(0.0, 1.08)
    axis.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axis.set_xlabel("share in the spread of the objective (PED-ANOVA)")
    axis.spines[["top", "right"]].set_visible(False)
    if len(shares) > 1:
        axis.legend(frameon=False, fontsize=9)
    return figure


def curves_figure(report: Report) -> Figure | None:
    """What trials reported by step: complete ones in colour, the best strongest, pruned ones grey."""
    shown = [row for row in report.rows if row.curve and row.state in ("complete", "pruned")]
    if len(report.objectives) > 1 or not shown:
        return None
    figure, (axis,) = _panels(1)
    best = {row.number for row in report.best}
    for row in sorted(shown, key=lambda row: (row.number in best, row.state == "complete")):
        steps = sorted(row.curve)
        color = ORANGE if row.number in best else BLUE if row.state == "complete" else "#b5b5b5"
        label = f"best: trial {row.number}" if row.number in best else row.state
        _, labels = axis.get_legend_handles_labels()
        axis.plot(
            steps, [row.curve[step] for step in steps], color=color, marker=".", markersize=5.0,
            linewidth=2.2 if row.number in best else 1.0, alpha=1.0 if row.number in best else 0.6,
            label="_" if label in labels else label,
        )  # fmt: skip
    values = [value for row in shown for value in row.curve.values()]
    if min(values) > 0 and max(values) / min(values) > _LOGARITHMIC_RATIO:
        logarithmic(axis)
    axis.set_xlabel("step (optimizer updates)")
    axis.set_ylabel(report.objectives[0].metric)
    axis.legend(frameon=False, fontsize=9)
    tidy(axis)
    return figure
