"""What the figures of a run share: colours, plain axes, smoothing, PNG bytes."""

import io
import itertools
import logging
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#2a6fb0", "#e07b27", "#3d8f5f", "#c23b3b", "#5a5a5a"
# For lines of several runs: a colour each, and another dash once all colours are taken.
RUN_COLORS = (BLUE, ORANGE, GREEN, RED, "#7d5ba6", "#8a6d3b", "#d477a8", "#2a9d9d")
RUN_STYLES = ("-", "--", ":", "-.")
_DOTS_PER_INCH = 130


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean over the `window` values around each one, fewer at both ends."""
    half = window // 2
    sums = [0.0, *itertools.accumulate(values)]
    spans = ((max(0, index - half), min(len(values), index + half + 1)) for index in range(len(values)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def run_style(number: int) -> dict[str, Any]:
    """How lines of the run with this number, from 0, are drawn."""
    dash = RUN_STYLES[number // len(RUN_COLORS) % len(RUN_STYLES)]
    return {"color": RUN_COLORS[number % len(RUN_COLORS)], "linestyle": dash}


def tidy(axis: Axes) -> None:
    """Horizontal grid lines behind the data, and no frame above and to the right."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.margins(x=0.01)
    axis.tick_params(labelsize=9)


def logarithmic(axis: Axes) -> None:
    """A logarithmic height with plain numbers at 1, 2 and 5."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")


def quieten() -> None:
    """Keeps matplotlib from announcing its font cache."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    return buffer.getvalue()
