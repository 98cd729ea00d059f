"""The loss figure of a run: loss, learning rate, and temperature when there was one."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bit_axon.files import write_atomic
from bit_axon.tracking.drawing import BLUE, GREEN, GREY, ORANGE, RED, png, quieten, running_mean, tidy
from bit_axon.tracking.points import METRICS_FILE, all_points

LOSS_FIGURE = "loss.png"
_TRAIN, _VALID, _RATE, _TEMPERATURE = "train/loss", "val/loss", "train/learning_rate", "thermal/temp_c"
_SMOOTHING_SHARE = 0.05  # of the steps, the window of the running mean

Series = dict[int, float]  # step -> value


def write_loss_figure(run_dir: Path) -> Path | None:
    """Draws `loss.png` into the run directory from its metrics; None when it has no loss at all."""
    wanted: dict[str, Series] = {_TRAIN: {}, _VALID: {}, _RATE: {}, _TEMPERATURE: {}}
    for point in all_points(run_dir / METRICS_FILE):
        if point.name in wanted:
            wanted[point.name][point.step] = point.value  # a resumed run repeats steps: the last one counts
    if not wanted[_TRAIN] and not wanted[_VALID]:
        return None
    quieten()
    path = run_dir / LOSS_FIGURE
    write_atomic(path, png(loss_figure(wanted, run_dir.resolve().name)))
    return path


def loss_figure(series: dict[str, Series], title: str) -> Figure:
    """The figure, a large panel for the losses over small ones for what else was recorded."""
    small = [name for name in (_RATE, _TEMPERATURE) if series.get(name)]
    figure = Figure(figsize=(8.0, 4.2 + 1.1 * len(small)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = 1 + len(small)
    grid = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=[4.0] + [1.0] * len(small))
    axes: list[Axes] = list(grid[:, 0])
    _draw_losses(axes[0], series.get(_TRAIN, {}), series.get(_VALID, {}))
    axes[0].set_title(title, loc="left", fontsize=11, color=GREY)
    for axis, name in zip(axes[1:], small, strict=True):
        _draw_small(axis, series[name], name)
    axes[-1].set_xlabel("step (optimizer updates)")
    return figure


def _draw_losses(axis: Axes, train: Series, valid: Series) -> None:
    steps, values = _finite(train)
    if steps:
        window = 2 * round(len(values) * _SMOOTHING_SHARE / 2) + 1
        shown = window > 1
        axis.plot(steps, values, color=BLUE, alpha=0.3 if shown else 1.0, linewidth=1.0, label="training")
        if shown:
            smooth = running_mean(values, window)
            axis.plot(steps, smooth, color=BLUE, linewidth=2.0, label=f"training, mean over {window} steps")
    steps, values = _finite(valid)
    if steps:
        axis.plot(steps, values, color=ORANGE, linewidth=1.8, marker="o", markersize=4.5, label="validation")
        axis.annotate(
            f"{values[-1]:.3f}", (steps[-1], values[-1]), xytext=(0, 7), textcoords="offset points",
            ha="right", color=ORANGE, fontsize=9,
        )  # fmt: skip
    axis.set_ylabel("loss")
    axis.legend(frameon=False, fontsize=9)
    tidy(axis)


def _draw_small(axis: Axes, series: Series, name: str) -> None:
    steps, values = _finite(series)
    rate = name == _RATE
    axis.plot(steps, values, color=GREEN if rate else RED, linewidth=1.4)
    axis.set_ylabel("learning\nrate" if rate else "°C", fontsize=9)
    if rate:
        axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axis.set_ylim(bottom=0.0)
    tidy(axis)


def _finite(series: Series) -> tuple[list[int], list[float]]:
    """Steps in order with their values; NaN is left out (it compares unequal to itself)."""
    kept = sorted((step, value) for step, value in series.items() if value == value)
    return [step for step, _ in kept], [value for _, value in kept]
