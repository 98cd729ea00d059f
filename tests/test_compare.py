"""`bit-axon compare`: what differs, what came out, curves and answers, on runs made by hand."""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from sweep_cases import make_grid, rewrite_config
from tracking_cases import RESULT, START_MS, append_lines, make_run
from typer.testing import CliRunner

from bit_axon.cli.compare import ComparedRun, compare, differing, distinct, ranking, read_run, results
from bit_axon.cli.compare_tables import Column, show_columns
from bit_axon.cli.main import app
from bit_axon.cli.terminal import run_console
from bit_axon.errors import ConfigError, RunDirectoryError
from bit_axon.tracking.compare_figure import (
    TEMPERATURE,
    TRAIN,
    VALID,
    Curves,
    Ranking,
    compare_figure,
    read_curves,
)
from bit_axon.tracking.drawing import RUN_COLORS, png
from bit_axon.tracking.places import find_all, find_runs, runs_below

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def run_of(params: dict[str, Any], result: dict[str, Any]) -> ComparedRun:
    return ComparedRun(Path("x"), "x", params, result)


def eval_line(step: int, loss: float) -> dict[str, Any]:
    return {"time": START_MS + step, "step": step, "kind": "eval", "metrics": {"val/loss": loss}}


@pytest.fixture
def two_runs(tmp_path: Path, outputs: Path) -> list[Path]:
    """Two runs in the outputs folder that differ in rank and rate; the second is better and larger."""
    found = []
    for number, (rank, loss) in enumerate([(8, 0.75), (16, 0.5)]):
        folder = outputs / "runs" / f"20261121-10000{number}-000000-nano"
        result = {
            **RESULT,
            "eval_loss": loss,
            "eval_loss_best": loss,
            "peak_memory_bytes": 1e6 * (number + 1),
        }
        run_dir = make_run(folder, result=result)
        rewrite_config(run_dir, {"adapter.rank": rank, "training.learning_rate": 1e-3 / rank}, None)
        append_lines(run_dir, [eval_line(10, 2 * loss), eval_line(20, loss)])
        answer = {"when": "after", "prompt": "3+3?", "reference": "6", "answer": f"{rank}", "correct": False}
        with open(run_dir / "samples.jsonl", "a") as file:
            file.write(json.dumps(answer) + "\n")
        found.append(run_dir)
    return found


def shown(
    capfd: pytest.CaptureFixture[str], runs: list[Any], out: Path, width: int = 120, **more: Any
) -> str:
    compare([str(run) for run in runs], out, console=run_console(width=width), **more)
    return capfd.readouterr().out


def test_params_that_differ_and_no_others(
    capfd: pytest.CaptureFixture[str], two_runs: list[Path], tmp_path: Path
) -> None:
    text = shown(capfd, two_runs, tmp_path / "c.png")
    part = text.partition("parameters that differ")[2].partition("results")[0]
    words = [line.split() for line in part.splitlines()]
    found = {line[0]: line[1:] for line in words if line and "." in line[0]}
    assert found == {"adapter.rank": ["8", "16"], "training.learning_rate": ["0.000125", "6.25e-05"]}


def test_a_key_that_one_run_has_not_is_shown_as_absent() -> None:
    runs = [run_of({"method.beta": 0.1, "seed": 1}, {}), run_of({"seed": 1}, {})]
    assert differing(runs) == [Column("method.beta", ["0.1", "-"])]


def test_the_text_null_and_none_differ() -> None:
    assert differing([run_of({"a": None}, {}), run_of({"a": "x"}, {})]) == [Column("a", ["null", "x"])]


def test_drawn_numbers_are_short_unless_that_hides_a_difference() -> None:
    runs = [
        run_of({"a": 0.0012520653814999472, "b": 0.12345678901}, {}),
        run_of({"a": 1e-4, "b": 0.12345678902}, {}),
    ]
    assert differing(runs) == [
        Column("a", ["0.00125207", "0.0001"]),
        Column("b", ["0.12345678901", "0.12345678902"]),
    ]


def test_the_better_of_each_figure_is_marked() -> None:
    first = {
        "eval_loss": 0.5,
        "task_accuracy": 0.9,
        "tokens_per_second": 100.0,
        "step": 10,
        "seconds/total": 60.0,
    }
    second = {
        "eval_loss": 0.4,
        "task_accuracy": 0.8,
        "tokens_per_second": 100.0,
        "step": 20,
        "seconds/total": 90.0,
    }
    columns = {c.label: c for c in results([run_of({}, first), run_of({}, second)])}
    assert columns["validation loss"].best == {1}
    assert columns["task accuracy"].best == {0}
    assert columns["tokens per second"].best == frozenset()  # equal
    assert columns["steps"].best == frozenset()  # neither more nor less is better
    assert columns["time"].texts == ["1:00", "1:30"]


def test_losses_of_different_methods_are_shown_but_not_ranked() -> None:
    runs = [
        run_of({"method.name": name}, {"eval_loss": loss}) for name, loss in (("sft", 0.5), ("orpo", 0.7))
    ]
    (column,) = [c for c in results(runs) if c.label == "validation loss"]
    assert (column.texts, column.best) == (["0.5000", "0.7000"], frozenset())


def orpo_runs(betas: tuple[float, float]) -> list[ComparedRun]:
    """Two runs of ORPO; the second one has the smaller loss, the first one the better model."""
    figures = ("eval_loss", "eval_loss_best", "reward_margin", "nll", "log_odds")
    values = ((0.5, 0.5, 0.8, 0.1, 9.0), (0.2, 0.2, 0.9, 0.4, 4.0))
    return [
        run_of({"method.name": "orpo", "method.beta": beta}, dict(zip(figures, one, strict=True)))
        for beta, one in zip(betas, values, strict=True)
    ]


def test_what_beta_scales_has_no_star_where_betas_differ() -> None:
    found = {column.label: column.best for column in results(orpo_runs((0.1, 0.9)))}
    scaled = ("validation loss", "validation loss, best", "reward margin")
    assert [found[label] for label in scaled] == [frozenset()] * 3
    assert found["nll"] == found["log odds"] == {0}
    found = {column.label: column.best for column in results(orpo_runs((0.1, 0.1)))}
    assert [found[label] for label in scaled] == [{1}] * 3


def test_runs_are_ranked_by_the_first_figure_that_compares_them() -> None:
    assert ranking(orpo_runs((0.1, 0.9))) == Ranking("nll", [0, 1])
    assert ranking(orpo_runs((0.1, 0.1))) == Ranking("validation loss", [1, 0])
    odds = [run_of({}, {"log_odds": value}) for value in (1.0, 3.0)]
    assert ranking([*odds, run_of({}, {}), run_of({}, {"log_odds": 2.0})]) == Ranking("log odds", [1, 3, 0])
    assert ranking([run_of({}, {}), run_of({}, {})]) is None


def test_results_are_marked_on_a_console_without_colours(
    capfd: pytest.CaptureFixture[str], two_runs: list[Path], tmp_path: Path
) -> None:
    text = shown(capfd, two_runs, tmp_path / "c.png").partition("results")[2]
    (loss,) = [line for line in text.splitlines() if "validation loss, best" in line]
    assert loss.split()[3:] == ["0.7500", "*", "0.5000"]
    (memory,) = [line for line in text.splitlines() if "peak memory" in line]
    assert memory.split()[2:] == ["*", "1.0", "MB", "2.0", "MB"]


def test_answers_are_next_to_each_other(
    capfd: pytest.CaptureFixture[str], two_runs: list[Path], tmp_path: Path
) -> None:
    text = shown(capfd, two_runs, tmp_path / "c.png")
    panel = text.partition("3+3?")[2]
    lines = [line for line in panel.splitlines() if "✗" in line or "reference" in line][:3]
    assert ["✗ 8" in lines[0], "✗ 16" in lines[1], "6" in lines[2]] == [True] * 3
    assert "no" not in text.partition("2+2?")[2].partition("╰")[0].split()  # that was before training
    assert "2+2?" not in shown(capfd, two_runs, tmp_path / "c.png", samples=0)


def test_answers_before_training_are_not_compared(
    capfd: pytest.CaptureFixture[str], two_runs: list[Path], tmp_path: Path
) -> None:
    for run_dir in two_runs:  # both were cut before they answered again
        before = (run_dir / "samples.jsonl").read_text().splitlines()[0]
        (run_dir / "samples.jsonl").write_text(before + "\n")
    assert "2+2?" not in shown(capfd, two_runs, tmp_path / "c.png")


def test_many_runs_become_rows(capfd: pytest.CaptureFixture[str], tmp_path: Path, outputs: Path) -> None:
    make_grid(outputs / "sweeps" / "grid")
    text = shown(capfd, ["grid"], tmp_path / "c.png", 200)
    rows = [line.split() for line in text.splitlines()]
    assert ["0", "grid", "lora", "0"] in rows and ["5", "grid", "dora", "2"] in rows
    assert "The same in all: outcome finished: max_steps" in text


def test_tables_that_are_too_wide_are_divided(capfd: pytest.CaptureFixture[str]) -> None:
    columns = [Column(f"figure number {n}", [f"{n}.00000{run}" for run in range(5)]) for n in range(9)]
    show_columns("results", [f"run-{n}" for n in range(5)], columns, run_console(width=60))
    lines = capfd.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 60
    assert [word for line in lines if line.split()[:1] == ["run-3"] for word in line.split()[1:]] == [
        f"{n}.000003" for n in range(9)
    ]


def test_the_figure_has_both_runs_in_their_colours(two_runs: list[Path]) -> None:
    figure = compare_figure({run.name: read_curves(run) for run in two_runs})
    axis = figure.axes[0]
    means = [line for line in axis.lines if line.get_linewidth() == pytest.approx(1.7)]
    assert [to_hex(line.get_color()) for line in means] == list(RUN_COLORS[:2])
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [list(np.asarray(line.get_ydata())) for line in dots] == [[1.5, 0.75], [1.0, 0.5]]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [run.name for run in two_runs]
    assert len(figure.axes) == 1  # no run had a temperature


def many_curves(count: int) -> dict[str, Curves]:
    """Runs that are the worse the lower their number."""
    heat = {step: 40.0 + step for step in range(1, 30)}
    return {
        f"{run} rank_scale_beta": {
            TRAIN: {step: (count - run) / step for step in range(1, 30)},
            VALID: {10: 1.0 + count - run},
            TEMPERATURE: heat,
        }
        for run in range(count)
    }


@pytest.mark.parametrize("count", [13, 120])
def test_of_many_runs_the_best_have_a_name_and_a_colour(count: int) -> None:
    order = list(reversed(range(count)))
    figure = compare_figure(many_curves(count), Ranking("nll", order))
    (legend,) = figure.legends
    named = [f"{run} rank_scale_beta" for run in order[:8]]
    assert [text.get_text() for text in legend.get_texts()] == [*named, f"other runs ({count - 8})"]
    assert legend.get_title().get_text() == "the best 8 by nll"
    dots = {
        float(np.asarray(line.get_ydata())[0]): line
        for line in figure.axes[0].lines
        if len(line.get_xdata()) == 1
    }
    colors = [to_hex(dots[2.0 + place].get_color()) for place in range(count)]
    assert colors[:8] == list(RUN_COLORS) and len(set(colors[8:])) == 1
    assert colors[8] not in RUN_COLORS
    assert dots[2.0].get_zorder() > dots[1.0 + count].get_zorder()  # in front of the others


def test_the_curves_have_most_of_the_picture_however_many_runs_there_are() -> None:
    for count in (2, 12, 13, 120):
        figure = compare_figure(many_curves(count))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # matplotlib warns when the legend leaves no room
            figure.savefig(io.BytesIO())
        below = figure.axes[0].get_position().y1
        assert below > 0.8
        assert figure.legends[0].get_window_extent().y0 >= below * figure.bbox.height


def test_without_an_order_the_first_of_many_runs_are_named() -> None:
    (legend,) = compare_figure(many_curves(20)).legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [*(f"{run} rank_scale_beta" for run in range(8)), "other runs (12)"]
    assert legend.get_title().get_text() == "the first 8"


def test_a_sweep_of_many_runs_is_drawn_by_what_ranks_them(outputs: Path, tmp_path: Path) -> None:
    folder = make_grid(outputs / "sweeps" / "grid", seeds=range(10))
    compare([str(folder)], tmp_path / "c.png", console=run_console(width=120))
    curves = {f"{number} grid": read_curves(folder / str(number)) for number in range(20)}
    order = [*range(10, 20), *range(10)]  # DoRA first, by seed
    wanted = compare_figure(curves, Ranking("validation loss, best", order))
    assert (tmp_path / "c.png").read_bytes() == png(wanted)


def test_the_temperature_has_its_panel(two_runs: list[Path]) -> None:
    line = {"time": START_MS, "step": 1, "kind": "train", "metrics": {"thermal/temp_c": 71.5}}
    append_lines(two_runs[1], [line])
    figure = compare_figure({run.name: read_curves(run) for run in two_runs})
    assert list(figure.axes[1].lines[1].get_ydata()) == [71.5]


def test_losses_far_apart_are_drawn_logarithmically(two_runs: list[Path]) -> None:
    curves = {run.name: read_curves(run) for run in two_runs}
    assert compare_figure(curves).axes[0].get_yscale() == "linear"
    append_lines(two_runs[0], [eval_line(30, 0.001)])
    curves = {run.name: read_curves(run) for run in two_runs}
    assert compare_figure(curves).axes[0].get_yscale() == "log"


def test_a_run_that_goes_on_has_its_last_validation_loss(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", steps=3)
    append_lines(run_dir, [eval_line(1, 0.5), eval_line(2, 0.6)])
    run = read_run(run_dir)
    assert (run.outcome, run.result["eval_loss"], run.result["eval_loss_best"]) == ("no result", 0.6, 0.5)


def test_runs_are_found_by_path_by_name_and_in_sweeps(two_runs: list[Path], outputs: Path) -> None:
    grid = make_grid(outputs / "sweeps" / "grid")
    (grid / "0" / ".hydra").mkdir()
    (grid / "0" / ".hydra" / "config.yaml").write_text("")
    assert find_runs(str(two_runs[0])) == find_runs(two_runs[0].name) == [two_runs[0]]
    assert [path.name for path in find_runs("grid")] == ["0", "1", "2", "3", "4", "5"]
    assert find_runs("grid/3") == [grid / "3"]
    assert find_all(["grid/3", "grid", str(grid / "3")])[0] == grid / "3"
    assert len(find_all(["grid/3", "grid"])) == 6


def test_jobs_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (0, 2, 10, 1):
        make_run(tmp_path / str(number))
    assert [path.name for path in runs_below(tmp_path)] == ["0", "1", "2", "10"]


def test_names_that_come_twice_are_told_apart() -> None:
    assert distinct(["a", "b", "a"]) == ["a (1)", "b", "a (2)"]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ([0], ConfigError, "wanted at least two runs; got 1"),
        ([0, 0], ConfigError, "wanted at least two runs; got 1"),
        ([0, "nano-"], RunDirectoryError, "Did you mean '20261121-100000-000000-nano'"),
    ],
)
def test_wrong_runs_are_told(
    two_runs: list[Path], tmp_path: Path, arguments: list[Any], error: type[Exception], text: str
) -> None:
    runs = [str(two_runs[one]) if isinstance(one, int) else two_runs[0].name[:-4] + one for one in arguments]
    with pytest.raises(error, match=text):
        compare(runs, tmp_path / "c.png")


def test_another_ending_is_refused(two_runs: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"--out: wanted a file ending in \.png"):
        compare([str(run) for run in two_runs], Path("c.pdf"))


def test_the_command(two_runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "curves.png"
    done = CliRunner().invoke(app, ["compare", *(run.name for run in two_runs), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_bytes().startswith(PNG_SIGNATURE)
    assert str(out) in done.output
