"""Figures of a sweep: what lies beyond an axis, and several objectives."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from optuna.distributions import FloatDistribution

from bit_axon.sweep.reporting.labels import shown_range
from bit_axon.sweep.reporting.parallel import parallel_figure
from bit_axon.sweep.reporting.plots import history_figure
from bit_axon.sweep.reporting.report import Objective, Report, Row
from bit_axon.tracking.drawing import BLUE, GREY, ORANGE

START = datetime(2026, 11, 21, 10, 0, 0)
X = FloatDistribution(0.0, 1.0)
LOSS, ACCURACY = Objective("eval_loss_best"), Objective("task_accuracy", "maximize")


def row_of(number: int, state: Any, *values: float, **more: Any) -> Row:
    began = START + timedelta(minutes=number)
    ended = began + timedelta(seconds=50)
    return Row(
        number, state, values=values or None, params={"x": number / 10}, started=began, ended=ended, **more
    )


def report_of(rows: Sequence[Row], *objectives: Objective) -> Report:
    return Report("ranks", "study", objectives, tuple(rows), {"x": X})


def legend_of(figure: Figure | None) -> list[str]:
    assert figure is not None
    legend = figure.axes[0].get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def arrows(figure: Figure | None) -> dict[str, tuple[str, list[float], list[float]]]:
    """Of the arrows on the first panel's edges, by colour: which way, places and heights."""
    assert figure is not None
    lines = [line for line in figure.axes[0].lines if line.get_marker() in ("^", "v")]
    return {to_hex(line.get_color()): (str(line.get_marker()), *points(line)) for line in lines}


def points(line: Line2D) -> tuple[list[float], list[float]]:
    return [float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()]


GOOD = [row_of(n, "complete", 0.1 + 0.01 * n) for n in range(9)]


def test_trials_beyond_the_axis_are_arrows_and_the_legend_says_so() -> None:
    pruned = [row_of(10, "pruned", curve={10: 3.0}), row_of(11, "pruned", curve={10: 0.15})]
    figure = history_figure(report_of([*GOOD, row_of(9, "complete", 0.418), *pruned], LOSS))
    assert figure is not None
    top = figure.axes[0].get_ylim()[1]
    assert top < 0.418
    assert arrows(figure) == {BLUE: ("^", [9.0], [top]), GREY: ("^", [10.0], [top])}
    lines = {line.get_label(): points(line)[1] for line in figure.axes[0].lines}
    assert np.isnan(lines["complete"][9]) and lines["complete"][:9] == [
        row.values[0] for row in GOOD if row.values
    ]
    assert np.isnan(lines["pruned (last value)"][0]) and lines["pruned (last value)"][1] == 0.15
    assert legend_of(figure) == ["complete", "pruned (last value)", "best so far", "beyond the axis"]


def test_where_more_is_better_the_arrows_point_down() -> None:
    rows = [row_of(n, "complete", 0.9 - 0.01 * n) for n in range(9)]
    figure = history_figure(report_of([*rows, row_of(9, "complete", 0.2)], ACCURACY))
    assert figure is not None
    assert arrows(figure) == {BLUE: ("v", [9.0], [figure.axes[0].get_ylim()[0]])}


def test_without_such_trials_there_is_no_such_word() -> None:
    figure = history_figure(report_of(GOOD, LOSS))
    assert arrows(figure) == {} and legend_of(figure) == ["complete", "best so far"]


def test_a_trial_that_is_little_worse_than_the_others_is_shown_where_it_is() -> None:
    assert shown_range([1.0, 2.0, 3.0, 4.0], 1) == (1.0, 4.0)
    assert shown_range([1.0, 2.0, 3.0, 40.0], 1) == (1.0, 3.0)
    assert shown_range([10.0, 9.0, 8.0, -40.0], -1) == (8.0, 10.0)
    assert shown_range([2.0, 2.0], 1) == (2.0, 2.0)


def parallel_lines(figure: Figure | None) -> dict[float, Line2D]:
    """The lines of trials, by their height on the first axis."""
    assert figure is not None
    lines = [line for line in figure.axes[0].lines if list(line.get_xdata()) != [line.get_xdata()[0]] * 2]
    return {round(points(line)[1][0], 3): line for line in lines}


def texts(figure: Figure | None) -> list[str]:
    assert figure is not None
    (axis, *_) = figure.axes
    return [text.get_text() for text in (*axis.texts, *axis.get_xticklabels())] + [axis.get_title("left")]


def test_several_objectives_have_an_axis_each_and_all_best_trials_stand_out() -> None:
    values = [(0.5, 0.9), (0.1, 0.5), (0.3, 0.8), (0.4, 0.6), (0.6, 0.5)]
    report = report_of([row_of(n, "complete", *pair) for n, pair in enumerate(values)], LOSS, ACCURACY)
    assert [row.number for row in report.best] == [0, 1, 2]
    figure = parallel_figure(report)
    lines = parallel_lines(figure)
    assert {place for place, line in lines.items() if line.get_color() == ORANGE} == {0.0, 0.1, 0.2}
    assert all(len(line.get_xdata()) == 3 for line in lines.values())  # x, and both objectives
    assert points(lines[0.0])[1] == pytest.approx([0.0, 0.8, 1.0])
    assert points(lines[0.1])[1] == pytest.approx([0.1, 0.0, 0.0])
    found = texts(figure)
    assert {"x", "eval_loss_best", "task_accuracy"} <= set(found)
    assert "orange: the 3 best trials, which none beats in everything" in found


def test_an_axis_says_that_its_end_stands_for_all_beyond() -> None:
    bad = row_of(9, "complete", 7.0)
    found = texts(parallel_figure(report_of([*GOOD, bad, row_of(10, "pruned", curve={1: 3.0})], LOSS)))
    assert "≥ 0.18" in found and "0.1" in found and "orange: the best trial; grey: pruned" in found
    accurate = [row_of(n, "complete", 0.9 - 0.1 * n) for n in range(9)]
    found = texts(parallel_figure(report_of([*accurate, row_of(9, "complete", -7.0)], ACCURACY)))
    assert "≤ 0.1" in found and "0.9" in found and "orange: the best trial" in found
    assert not any("≥" in text for text in found)
