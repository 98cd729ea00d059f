"""What the figures of a run share: colours, plain axes, smoothing, PNG bytes."""

import io
import itertools
import logging
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#2a6fb0", "#e07b27", "#3d8f5f", "#c23b3b", "#5a5a5a"
_DOTS_PER_INCH = 130


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean over the `window` values around each one, fewer at both ends."""
    half = window // 2
    sums = [0.0, *itertools.accumulate(values)]
    spans = ((max(0, index - half), min(len(values), index + half + 1)) for index in range(len(values)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def tidy(axis: Axes) -> None:
    """Horizontal grid lines behind the data, and no frame above and to the right."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.margins(x=0.01)
    axis.tick_params(labelsize=9)


def quieten() -> None:
    """Keeps matplotlib from announcing its font cache."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    return buffer.getvalue()
