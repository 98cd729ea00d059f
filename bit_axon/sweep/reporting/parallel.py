"""Parallel coordinates: an axis for each parameter and each objective, a line for each trial."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from bit_axon.sweep.reporting.labels import short_names, shown_range, value_text
from bit_axon.sweep.reporting.report import Objective, Report, Row
from bit_axon.tracking.drawing import GREY, ORANGE

_TICKS: Final = 5
_MOST_CHOICES: Final = 12  # named on an axis
_CHOICE_CHARACTERS: Final = 16


@dataclass(frozen=True)
class _Scale:
    """Maps the values of one axis to heights from 0 to 1; what is beyond lies on the edge."""

    low: float
    high: float
    is_log: bool = False
    choices: tuple[Any, ...] = ()
    below: bool = False  # whether values lie beyond that edge
    above: bool = False

    def height(self, value: Any) -> float:
        """Choices are evenly spaced, in their order."""
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        low, high, place = (self._stretched(one) for one in (self.low, self.high, float(value)))
        return 0.5 if high == low else min(1.0, max(0.0, (place - low) / (high - low)))

    def _stretched(self, value: float) -> float:
        return math.log(value) if self.is_log else value

    def ticks(self) -> list[tuple[float, str]]:
        """Heights and texts."""
        if self.choices:
            shown = self.choices[:: math.ceil(len(self.choices) / _MOST_CHOICES)]
            return [(self.height(choice), value_text(choice)[:_CHOICE_CHARACTERS]) for choice in shown]
        if self.low == self.high:
            return [(0.5, value_text(self.low))]
        shares = [step / (_TICKS - 1) for step in range(_TICKS)]
        texts = [f"{self._at(share):.3g}" for share in shares]
        texts[0], texts[-1] = "≤ " * self.below + texts[0], "≥ " * self.above + texts[-1]
        return list(zip(shares, texts, strict=True))

    def _at(self, share: float) -> float:
        low, high = self._stretched(self.low), self._stretched(self.high)
        value = low + share * (high - low)
        return math.exp(value) if self.is_log else value


def parallel_figure(report: Report) -> Figure | None:
    """The figure, coloured by the first objective; pruned trials grey, the best ones on top.

    None when fewer than two trials are complete, or nothing was varied.
    """
    names = list(report.distributions)
    known = [row for row in report.rows if set(names) <= set(row.params)]
    rows = [row for row in known if row.state == "complete" and row.values]
    pruned = [row for row in known if row.state == "pruned"]
    if len(rows) < 2 or not names:
        return None
    scales = [
        _scale(report.distributions[name], [r.params[name] for r in (*rows, *pruned)]) for name in names
    ]
    goals = [_goal(rows, place, one) for place, one in enumerate(report.objectives)]
    count = len(scales) + len(goals)
    figure = Figure(figsize=(max(7.0, 2.0 + 1.5 * count), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    short = short_names(names)
    metrics = [objective.metric for objective in report.objectives]
    _draw_axes(axis, [*scales, *goals], [*(short[name] for name in names), *metrics])
    for row in pruned:
        _line(axis, _heights(row, names, scales), "#c4c4c4")
    _draw_complete(axis, figure, report, rows, scales, goals)
    return figure


def _goal(rows: Sequence[Row], place: int, objective: Objective) -> _Scale:
    """The axis of an objective; see `shown_range`."""
    values = [row.values[place] for row in rows if row.values]
    low, high = shown_range(values, objective.sign)
    return _Scale(low, high, below=min(values) < low, above=max(values) > high)


def _heights(row: Row, names: Sequence[str], scales: Sequence[_Scale]) -> list[float]:
    return [scale.height(row.params[name]) for scale, name in zip(scales, names, strict=True)]


def _draw_complete(
    axis: Axes,
    figure: Figure,
    report: Report,
    rows: Sequence[Row],
    scales: Sequence[_Scale],
    goals: Sequence[_Scale],
) -> None:
    first = report.objectives[0]
    colors = colormaps["viridis_r" if first.sign < 0 else "viridis"]
    best = {row.number for row in report.best}
    norm, width = Normalize(goals[0].low, goals[0].high), 2.6 if len(best) == 1 else 1.8
    for row in sorted(rows, key=lambda row: (row.number in best, -first.sign * (row.values or (0.0,))[0])):
        assert row.values is not None
        heights = _heights(row, list(report.distributions), scales)
        heights += [goal.height(value) for goal, value in zip(goals, row.values, strict=True)]
        is_best = row.number in best
        _line(axis, heights, ORANGE if is_best else colors(norm(row.values[0])), width if is_best else 1.3)
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axis, pad=0.02, fraction=0.04)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(first.metric, fontsize=9)
    axis.set_title(_meaning(report), loc="left", fontsize=9, color=GREY, pad=12)


def _meaning(report: Report) -> str:
    """Of the colours."""
    count = len(report.best)
    best = f"orange: the {count} best trials, which none beats in everything"
    parts = [] if not count else ["orange: the best trial"] if count == 1 else [best]
    return "; ".join([*parts, "grey: pruned"] if report.count("pruned") else parts)


def _line(axis: Axes, heights: Sequence[float], color: Any, width: float = 0.8) -> None:
    axis.plot(range(len(heights)), heights, color=color, linewidth=width, alpha=0.9, clip_on=False)


def _draw_axes(axis: Axes, scales: Sequence[_Scale], names: Sequence[str]) -> None:
    axis.set_xlim(0, len(scales) - 1)
    axis.set_ylim(0.0, 1.0)
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    axis.set_xticks(range(len(scales)), names)
    axis.tick_params(axis="x", length=0, pad=8)
    for place, scale in enumerate(scales):
        axis.axvline(place, color="#999999", linewidth=1.0, zorder=3)
        for height, text in scale.ticks():
            axis.annotate(
                text, (place, height), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8,
                color="#333333", annotation_clip=False, zorder=4,
                bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.6},
            )  # fmt: skip


def _scale(distribution: BaseDistribution, values: Sequence[Any]) -> _Scale:
    """The whole range that was searched, or the choices."""
    if isinstance(distribution, CategoricalDistribution):
        return _Scale(0.0, 1.0, choices=tuple(distribution.choices))
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return _Scale(float(distribution.low), float(distribution.high), distribution.log)
    return _Scale(float(min(values)), float(max(values)))
