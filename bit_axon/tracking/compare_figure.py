"""Loss curves of several runs over each other, with their temperatures where there were any."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bit_axon.tracking.drawing import (
    GREY,
    RUN_COLORS,
    logarithmic,
    quieten,
    run_style,
    running_mean,
    tidy,
)
from bit_axon.tracking.points import METRICS_FILE, all_points

TRAIN, VALID, TEMPERATURE = "train/loss", "val/loss", "thermal/temp_c"
_SMOOTHING_SHARE: Final = 0.1  # of the steps, the window of the running mean
_LOGARITHMIC_RATIO: Final = 20.0  # of the largest to the smallest loss, from which the axis is logarithmic
_LEGEND_CHARACTERS: Final = 100  # across the figure
_LEGEND_ROW: Final = 0.2  # inches
_MOST_NAMED: Final = 12  # runs; of more of them only the best have a colour and a name
_NAMED_OF_MANY: Final = len(RUN_COLORS)

Curves = Mapping[str, Mapping[int, float]]  # metric -> step -> value


@dataclass(frozen=True)
class Ranking:
    """The order of runs by one figure: their places in the comparison, the best one first."""

    figure: str
    places: Sequence[int]


@dataclass(frozen=True)
class _Look:
    """How one run is drawn; a size of less than 1 puts it behind the others."""

    style: Mapping[str, Any]
    size: float = 1.0  # of lines and dots
    order: float = 2.0


_OTHERS: Final = _Look({"color": "#bdbdbd", "linestyle": "-"}, 0.5, 1.0)


def read_curves(run_dir: Path) -> dict[str, dict[int, float]]:
    """The metrics that are drawn; of a step that a resumed run repeated, the last value counts."""
    found: dict[str, dict[int, float]] = {TRAIN: {}, VALID: {}, TEMPERATURE: {}}
    for point in all_points(run_dir / METRICS_FILE):
        if point.name in found and point.value == point.value:
            found[point.name][point.step] = point.value
    return found


def compare_figure(runs: Mapping[str, Curves], ranking: Ranking | None = None) -> Figure:
    """The figure: training losses as lines, validation losses as dots, a colour for each run by its name.

    Args:
        runs: by name.
        ranking: of many runs, which ones have a colour and a name; without it the first ones have.
    """
    quieten()
    names, places = list(runs), _named(len(runs), ranking)
    looks = {place: _Look(run_style(number)) for number, place in enumerate(places)}
    labels, title = [names[place] for place in places], None
    if others := len(names) - len(places):
        labels.append(f"other runs ({others})")
        title = f"the best {len(places)} by {ranking.figure}" if ranking else f"the first {len(places)}"
    has_heat = any(curves[TEMPERATURE] for curves in runs.values())
    rows = math.ceil(len(labels) / _columns_of(labels)) + bool(title)
    figure, axes = _panels([3.4, 1.0] if has_heat else [3.4], rows)
    for place, curves in enumerate(runs.values()):
        _draw(axes, curves, looks.get(place, _OTHERS))
    _scale(axes[0], list(runs.values()))
    _name(figure, axes[0], labels, [*looks.values(), _OTHERS][: len(labels)], title)
    return figure


def _named(count: int, ranking: Ranking | None) -> list[int]:
    """Places of the runs that are told apart, in the order of their colours."""
    if count <= _MOST_NAMED:
        return list(range(count))
    return list(range(count) if ranking is None else ranking.places)[:_NAMED_OF_MANY]


def _panels(heights: Sequence[float], legend_rows: int) -> tuple[Figure, list[Axes]]:
    height = 1.3 + _LEGEND_ROW * legend_rows + 1.2 * sum(heights)
    figure = Figure(figsize=(9.0, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    axes: list[Axes] = list(grid[:, 0])
    for axis, label in zip(axes, ("loss", "°C"), strict=False):
        axis.set_ylabel(label)
        tidy(axis)
    axes[-1].set_xlabel("step (optimizer updates)")
    return figure, axes


def _draw(axes: Sequence[Axes], curves: Curves, look: _Look) -> None:
    _draw_losses(axes[0], curves, look)
    for axis in axes[1:]:
        steps, degrees = _columns(curves[TEMPERATURE])
        axis.plot(steps, degrees, linewidth=1.3 * look.size, zorder=look.order, **look.style)


def _draw_losses(axis: Axes, curves: Curves, look: _Look) -> None:
    steps, values = _columns(curves[TRAIN])
    window = 2 * round(len(values) * _SMOOTHING_SHARE / 2) + 1
    if window > 1 and look is not _OTHERS:
        axis.plot(steps, values, alpha=0.2, linewidth=0.8, **look.style)
    mean = running_mean(values, window)
    axis.plot(steps, mean, linewidth=1.7 * look.size, zorder=look.order, **look.style)
    axis.plot(
        *_columns(curves[VALID]), "o", color=look.style["color"], markersize=5.5 * look.size,
        markeredgecolor="white", markeredgewidth=look.size, zorder=look.order,
    )  # fmt: skip


def _scale(axis: Axes, runs: Sequence[Curves]) -> None:
    values = [value for curves in runs for name in (TRAIN, VALID) for value in curves[name].values()]
    if values and min(values) > 0 and max(values) / min(values) > _LOGARITHMIC_RATIO:
        logarithmic(axis)


def _columns(series: Mapping[int, float]) -> tuple[list[int], list[float]]:
    steps = sorted(series)
    return steps, [series[step] for step in steps]


def _columns_of(labels: Sequence[str]) -> int:
    """Of the legend, as many as its width takes."""
    return max(1, min(4, len(labels), _LEGEND_CHARACTERS // (max(map(len, labels)) + 8)))


def _name(
    figure: Figure, axis: Axes, labels: Sequence[str], looks: Sequence[_Look], title: str | None
) -> None:
    """Runs above the figure; what lines and dots are, inside."""
    lines = [Line2D([], [], linewidth=2.0, **look.style) for look in looks]
    figure.legend(
        lines, labels, loc="outside upper left", ncols=_columns_of(labels), frameon=False, fontsize=9,
        title=title, title_fontsize=9, alignment="left",
    )  # fmt: skip
    kinds = [Line2D([], [], color=GREY), Line2D([], [], color=GREY, marker="o", linestyle="")]
    axis.legend(kinds, ["training, running mean", "validation"], frameon=False, fontsize=9)
