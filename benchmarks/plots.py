"""The figures of the reports."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.results import Line

_MET, _MISSED, _PLAIN = "#2a7f62", "#b5483a", "#5b7aa5"
_ROW_INCHES = 0.34
_DPI = 130


def plot_ratios(lines: Sequence[Line], path: Path) -> None:
    """Ratios as bars on a logarithmic axis, quartiles as whiskers, targets as black marks."""
    shown = [line for line in lines if line.ratio is not None][::-1]
    figure = Figure(figsize=(11, 1.2 + _ROW_INCHES * max(len(shown), 2)))
    axes = figure.add_subplot()
    for place, line in enumerate(shown):
        _bar(axes, place, line)
    axes.set_yticks(range(len(shown)), [f"{x.what} ({x.model}, {x.peer})" for x in shown], fontsize=8)
    axes.set_xscale("log")
    _plain_numbers(axes.xaxis)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("ours / peer; black mark: target")
    _save(figure, path)


def _bar(axes: Axes, place: int, line: Line) -> None:
    assert line.ratio is not None
    color = {True: _MET, False: _MISSED, None: _PLAIN}[line.is_met]
    ratio = line.ratio
    axes.barh(place, ratio.median - 1, left=1, color=color, height=0.7)
    axes.plot([ratio.lower, ratio.upper], [place, place], color="black", linewidth=1)
    if line.target is not None:
        axes.plot([line.target.value], [place], marker="|", color="black", markersize=12, markeredgewidth=2)


def plot_curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: Path, labels: Mapping[str, str]
) -> None:
    """One log-log panel for each axis, one line for each series; points of a straight line grow by a power.

    Args:
        panels: axis -> series -> points.
        path: of the image.
        labels: axis -> name of the horizontal axis.
    """
    figure = Figure(figsize=(4.2 * max(len(panels), 1), 3.6))
    for place, (name, series) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), place)
        for title, points in series.items():
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=title)
        axes.set_xscale("log")
        axes.set_yscale("log")
        places = sorted({x for points in series.values() for x, _ in points})
        axes.set_xticks(places, [_short(place) for place in places], fontsize=7)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(labels[name])
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3, which="both")
    _save(figure, path)


def _plain_numbers(axis: Axis) -> None:
    """1, 2, 5 and 10 instead of powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _short(number: float) -> str:
    """Three digits, with a unit of thousands from ten thousand on."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= (size if size == 1e6 else 10 * size):
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    FigureCanvasAgg(figure).print_png(str(path))
