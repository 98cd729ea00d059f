"""The thermal figures: what is in them, and that no line is drawn where nothing is known."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from trace_cases import row, write_run

from bit_axon.errors import ConfigError
from bit_axon.profiling.timeline import build_timeline
from bit_axon.profiling.trace import HEADER, TRACE_FILE, TraceRow
from bit_axon.tracking.drawing import png
from bit_axon.tracking.thermal_figure import overlay_figure, thermal_figure, write_thermal_figure
from bit_axon.tracking.thermal_panels import apart
from bit_axon.tracking.thermal_series import Trace, build_trace

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
THRESHOLDS = {"warm": 75.0, "target": 83.0, "resume": 78.0, "pause": 85.0, "stop": 95.0}


def trace_of(rows: list[TraceRow], policy: str | None = None) -> Trace:
    return build_trace("a run", build_timeline(rows), THRESHOLDS, policy)


def figure_of(rows: list[TraceRow], policy: str | None = None) -> Figure:
    return thermal_figure(trace_of(rows, policy))


def texts(figure: Figure) -> set[str]:
    return {text.get_text() for axis in figure.axes for text in axis.texts}


def segments(figure: Figure, label: str) -> list[list[float]]:
    """Minutes of the pieces of a line; a piece of one point is not seen."""
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == label]
    minutes, values = line.get_data()
    known = ~np.isnan(np.asarray(minutes, float)) & ~np.isnan(np.asarray(values, float))
    parts = np.split(np.arange(len(known)), np.flatnonzero(~known))
    found = [[float(minutes[place]) for place in part if known[place]] for part in parts]
    return [part for part in found if len(part) > 1]


def test_a_run_gets_its_figure(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", minutes=10.0)
    assert write_thermal_figure(run_dir) == run_dir / "thermal.png"
    assert (run_dir / "thermal.png").read_bytes().startswith(PNG_SIGNATURE)


@pytest.mark.parametrize(
    "content", [None, HEADER, "bread\nmilk\n", "t_mono_s,colour,schema_version\n1,red,2\n"]
)
def test_without_a_trace_that_can_be_read_there_is_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / TRACE_FILE).write_text(content)
    assert write_thermal_figure(tmp_path) is None
    assert not (tmp_path / "thermal.png").exists()


def test_without_a_temperature_there_is_none(tmp_path: Path) -> None:
    assert not trace_of([row(0, 60.0, quality="invalid"), row(1, pressure=1)]).has_temperature
    write_run(tmp_path, minutes=0.2)
    lines = (tmp_path / TRACE_FILE).read_text().replace(",ok,", ",stale,")
    (tmp_path / TRACE_FILE).write_text(lines)
    assert write_thermal_figure(tmp_path) is None


@pytest.mark.parametrize("place", ["result.json", "repro.json"])
def test_the_thresholds_are_those_the_run_was_held_by(tmp_path: Path, place: str) -> None:
    run_dir = write_run(tmp_path / "run", minutes=2.0)
    assert not texts(overlay_figure([run_dir]))
    (run_dir / place).write_text(
        json.dumps({"thermal": {"thresholds": {**THRESHOLDS, "warm": 62.0, "pause": 68.5}}})
    )
    assert {"warm 62", "pause 68.5"} <= texts(overlay_figure([run_dir]))


def test_there_is_a_panel_for_what_was_recorded() -> None:
    rows = [row(second, 60.0) for second in range(5)]
    assert [axis.get_ylabel() for axis in figure_of(rows).axes] == ["°C"]
    known = dict(duty=0.5, tok_s_active=900.0, pressure=1, gpu_power_w=11.0)
    rows = [row(second, 60.0, opt_step=second, **known) for second in range(5)]
    labels = [axis.get_ylabel() for axis in figure_of(rows).axes]
    assert labels == ["°C", "duty", "tokens/s\nactive", "pressure", "GPU W"]


def test_lines_end_where_readings_are_missing() -> None:
    rows = [row(second, 60.0, temp_filt_c=60.0) for second in [*range(60), *range(120, 180)]]
    rows += [row(180 + n, math.nan, quality="invalid") for n in range(30)]
    rows += [row(210 + n, 61.0, temp_filt_c=61.0, quality="gap" if n == 30 else "ok") for n in range(60)]
    figure = figure_of(rows)
    for label in ("reading", "filtered"):
        spans = [(part[0] * 60, part[-1] * 60) for part in segments(figure, label)]
        assert spans == [
            pytest.approx(span, abs=1e-6) for span in [(0, 59), (120, 179), (210, 239), (241, 269)]
        ]


def test_actions_between_missing_polls_do_not_bridge_the_gap() -> None:
    rows = [row(second, 60.0) for second in [*range(60), *range(120, 180)]]
    rows += [row(60 + 3 * n, 60.0, action="pause" if n % 2 else "resume") for n in range(20)]
    rows.sort(key=lambda one: one.t_mono_s)
    assert [(round(part[0] * 60), round(part[-1] * 60)) for part in segments(figure_of(rows), "reading")] == [
        (0, 59),
        (120, 179),
    ]


def test_an_action_without_a_reading_does_not_end_a_line() -> None:
    rows = [row(0, 60.0), row(1, 60.0), row(1.5, action="split", quality=""), row(2, 60.0), row(3, 61.0)]
    figure = figure_of(rows)
    assert len(segments(figure, "reading")) == 1
    assert "split" in texts(figure)


def test_the_time_between_the_parts_of_a_resumed_run_is_cut_short() -> None:
    rows = [row(second, 60.0) for second in range(300)]
    rows.append(row(300 + 9 * 3600 + 600, action="resume_run", quality=""))
    rows += [row(300 + 9 * 3600 + 600 + second, 40.0) for second in range(300)]
    figure = figure_of(rows)
    first, second = segments(figure, "reading")
    assert (first[0], second[-1]) == (0.0, pytest.approx(10.0, abs=0.3))
    assert 0 < second[0] - first[-1] < 0.3
    assert "off 9 h 10" in texts(figure)
    assert figure.axes[0].get_xlim()[1] < 11
    assert figure.axes[-1].get_xlabel() == "minutes, without the time in which the run was off"


def test_pauses_are_shaded_and_stops_are_lines() -> None:
    rows = [row(second, 80.0, duty=1.0) for second in range(200)]
    rows[50:70] = [row(50 + n, 80.0, phase="pause", action="" if n else "pause") for n in range(20)]
    rows[70] = row(70, 80.0, action="resume", duty=1.0)
    rows.append(row(199.5, 99.0, action="stop"))
    figure = figure_of(rows, "tiers")
    (pauses,) = [item for item in figure.axes[0].collections if item.get_label() == "paused"]
    (path,) = pauses.get_paths()
    assert [path.vertices[:, 0].min() * 60, path.vertices[:, 0].max() * 60] == pytest.approx([50.0, 70.0])
    stops = [line for axis in figure.axes for line in axis.lines if line.get_label() in ("stopped", "_")]
    assert [float(np.asarray(line.get_xdata())[0]) * 60 for line in stops] == pytest.approx([199.5] * 2)
    assert len(figure.axes) == 2
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"reading", "paused", "stopped"}
    assert texts(figure) == {"resume 78", "pause 85", "stop 95"}


def test_only_what_was_in_force_is_named() -> None:
    rows = [row(second, 84.0) for second in range(10)]
    assert texts(figure_of(rows, "tiers")) == {"pause 85"}
    assert texts(figure_of(rows, "pacing")) == {"target 83", "pause 85"}


def test_what_swings_fast_is_shown_by_its_mean() -> None:
    rows = [row(second, 60.0, duty=float(second % 2)) for second in range(1200)]
    axis = figure_of(rows).axes[1]
    light, strong = axis.lines
    assert set(np.asarray(light.get_ydata())) == {0.0, 1.0}
    middle = np.asarray(strong.get_ydata())[100:-100]
    assert np.all(np.abs(middle - 0.5) < 0.01)
    short = figure_of(rows[:100]).axes[1]
    assert len(short.lines) == 1


def test_a_short_trace_is_shown_in_seconds() -> None:
    figure = figure_of([row(second, 60.0) for second in range(41)])
    png(figure)
    assert figure.axes[-1].get_xlabel() == "seconds"
    labels = [tick.get_text() for tick in figure.axes[-1].get_xticklabels()]
    assert [label for label in labels if label in ("0", "5", "10")] == ["0", "5", "10"]


@pytest.mark.parametrize("rows", [[row(0, 60.0)], [row(0, 60.0), row(0, 60.0)], [row(0), row(9, 200.0)]])
def test_the_smallest_traces_can_be_drawn(rows: list[TraceRow]) -> None:
    assert png(figure_of(rows)).startswith(PNG_SIGNATURE)


def test_runs_are_laid_over_each_other_from_their_starts(tmp_path: Path) -> None:
    names = ["20260101-120000-1-pacing", "20260101-130000-1-tiers"]
    run_dirs = [write_run(tmp_path / name, minutes=5.0, seed=n) for n, name in enumerate(names)]
    figure = overlay_figure(run_dirs)
    assert [axis.get_ylabel() for axis in figure.axes] == ["°C", "duty", "tokens/s\nactive"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "pacing 20260101-120000",
        "tiers 20260101-130000",
    ]
    lines = figure.axes[0].lines
    assert [float(np.asarray(line.get_xdata())[0]) for line in lines] == [0.0, 0.0]
    assert len({line.get_color() for line in lines}) == 2
    highest = max(float(np.nanmax(np.asarray(line.get_ydata()))) for line in figure.axes[2].lines)
    assert figure.axes[2].get_ylim()[1] > highest
    assert png(figure).startswith(PNG_SIGNATURE)


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    run_dirs = [write_run(tmp_path / folder / "run", minutes=1.0) for folder in "ab"]
    legend = [text.get_text() for text in overlay_figure(run_dirs).legends[0].get_texts()]
    assert legend == [str(run_dir) for run_dir in run_dirs]


def test_a_run_that_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", minutes=1.0)
    with pytest.raises(ConfigError, match=r"absent/thermal.csv: wanted a thermal trace; got no such file"):
        overlay_figure([run_dir, tmp_path / "absent"])
    (run_dir / TRACE_FILE).write_text(HEADER)
    with pytest.raises(ConfigError, match=r"wanted a temperature to draw; got none in .*run/thermal.csv"):
        overlay_figure([run_dir])


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=8), st.floats(0.5, 20.0))
def test_names_are_moved_apart_as_little_as_it_takes(places: list[float], distance: float) -> None:
    places.sort()
    moved = apart(places, distance)
    assert len(moved) == len(places)
    assert all(b - a >= distance * (1 - 1e-6) for a, b in itertools.pairwise(moved))
    assert sum(moved) == pytest.approx(sum(places), abs=1e-6)
    if all(b - a >= distance for a, b in itertools.pairwise(places)):
        assert moved == pytest.approx(places)
