"""The figure of `sweep_heat`: one study with and without the rules, and what that did to its ranking."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.hot_scores import BEST, TOP, Score
from benchmarks.hot_study import COLD, CONFIGS, PLAIN, PRODUCT, Done

BLUE, ORANGE, GREEN, RED = "#2a6fb0", "#e07b27", "#3d8f5f", "#c23b3b"
GREY, LIGHT = "#5a5a5a", "#c9d0d7"
_BAR = 0.26
_DPI = 130
_COLUMNS = (
    (PLAIN.name, "no cool-down,\nby the clock"),
    (COLD.name, "rested machines,\nby updates"),
    (PRODUCT.name, "cool-down,\nby updates"),
)
_NARROW_MINUTES = 3.0  # too narrow for a word
_LONGEST_GAP_SECONDS = 5.0  # between readings; nothing is drawn over a longer one


def plot_studies(studies: Mapping[str, Done], scores: Sequence[Score], path: Path) -> None:
    """Temperatures of two studies over time, the rankings they end with, and the counts over all orders.

    Args:
        studies: of one order.
        scores: over all orders.
        path: of the image.
    """
    figure = Figure(figsize=(11, 9.6), dpi=_DPI, layout="constrained")
    grid = figure.add_gridspec(3, 2, height_ratios=(1, 1, 2.2), width_ratios=(1, 1.05))
    plain, product = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, :])
    _draw_study(plain, studies[PLAIN.name], ORANGE, "Without cool-down, pruned by the clock")
    _draw_study(product, studies[PRODUCT.name], BLUE, "With cool-down, pruned by updates")
    end = max(axes.get_xlim()[1] for axes in (plain, product))
    for axes in (plain, product):
        axes.set_xlim(0, end)
    product.set_xlabel("minutes since the study began")
    _draw_rankings(figure.add_subplot(grid[2, 0]), studies)
    _draw_scores(figure, figure.add_subplot(grid[2, 1]), scores)
    FigureCanvasAgg(figure).print_png(str(path))


def _draw_study(axes: Axes, study: Done, color: str, title: str) -> None:
    """Temperature, a stripe for each trial with its config, red where one of the best was pruned."""
    seconds, temps = (np.array(column) for column in zip(*study.temps, strict=True))
    breaks = np.flatnonzero(np.diff(seconds) > _LONGEST_GAP_SECONDS) + 1
    minutes, shown = np.insert(seconds / 60, breaks, np.nan), np.insert(temps, breaks, np.nan)
    axes.plot(minutes, shown, color=color, linewidth=0.9)
    for tried in study.tried:
        lost = bool(tried.pruned_by) and tried.known.rank in BEST[:TOP]
        start, width = tried.began / 60, tried.seconds / 60
        axes.axvspan(start, start + width, color=RED if lost else LIGHT, alpha=0.35, linewidth=0)
        text = f"{tried.known.rank}{' x' if tried.pruned_by else ''}"
        upright = 90.0 if width < _NARROW_MINUTES else 0.0
        place, color_of_text = (start + width / 2, 117), RED if lost else GREY
        axes.text(*place, text, ha="center", va="top", fontsize=8, rotation=upright, color=color_of_text)
    axes.set_ylim(25, 118)
    axes.set_ylabel("°C")
    _tidy(axes, f"{title} (at the top: adapter.rank of each trial; x = pruned)")


def _draw_rankings(axes: Axes, studies: Mapping[str, Done]) -> None:
    """A line for each config from ranking to ranking; the best ones strong."""
    rankings = [studies[name].ranking() for name, _ in _COLUMNS]
    for rank in CONFIGS:
        places = [ranking.index(rank) + 1 for ranking in rankings]
        good = rank in BEST[:TOP]
        color = BLUE if good else GREY
        line_color, width = (BLUE, 2.0) if good else (LIGHT, 1.2)
        axes.plot(range(len(places)), places, color=line_color, linewidth=width, zorder=2 + good)
        for column, (place, (name, _)) in enumerate(zip(places, _COLUMNS, strict=True)):
            pruned = rank in studies[name].pruned()
            marked = RED if pruned and good else color
            axes.plot(column, place, "X" if pruned else "o", color=marked, markersize=7, zorder=4)
        axes.text(len(places) - 0.9, places[-1], f"rank {rank}", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(_COLUMNS)), [shown for _, shown in _COLUMNS])
    axes.set_xlim(-0.25, len(_COLUMNS) - 0.45)
    axes.set_yticks(range(1, len(CONFIGS) + 1))
    axes.set_ylim(len(CONFIGS) + 0.6, 0.4)
    _tidy(axes, "Place in this study; X = pruned; blue: the best three")


def _draw_scores(figure: Figure, axes: Axes, scores: Sequence[Score]) -> None:
    """Bars for each kind of study."""
    kinds = (
        ("ranking as on rested machines", BLUE, [score.same_ranking for score in scores]),
        ("best config ranked first", GREEN, [score.best_first for score in scores]),
        ("one of the best three lost", RED, [score.lost_good for score in scores]),
    )
    for number, (label, color, counts) in enumerate(kinds):
        places = [row + (number - 1) * _BAR for row in range(len(scores))]
        bars = axes.barh(places, counts, height=_BAR * 0.9, color=color, label=label)
        axes.bar_label(bars, fontsize=7.5, padding=2, color=GREY)
    names = [f"{score.rules.replace(', ', ',' + chr(10))}\n{score.minutes:.0f} min" for score in scores]
    axes.set_yticks(range(len(scores)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, scores[0].studies * 1.06)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("studies")
    figure.legend(fontsize=8, loc="outside lower right", ncols=len(kinds), frameon=False)
    _tidy(axes, f"Over {scores[0].studies} orders of the ten configs", grid="x")


def _tidy(axes: Axes, title: str, grid: Literal["x", "y"] = "y") -> None:
    axes.set_title(title, loc="left", fontsize=10, color=GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
