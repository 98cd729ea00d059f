"""What is shown of a study and of a grid, and the best trial again."""

import math
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest
import yaml
from conftest import Runner
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from rich.console import Console
from sweep_cases import METRIC, SPACE, make_grid, make_study, objective
from typer.testing import CliRunner

from bit_axon.cli.main import app
from bit_axon.cli.sweep_best import Request, best_of_sweep
from bit_axon.cli.sweep_show import _watch, picture, show_sweep, summary
from bit_axon.cli.terminal import run_console
from bit_axon.composition import conf_dir, plain_values, register_resolvers
from bit_axon.errors import ConfigError, RunDirectoryError
from bit_axon.sweep.reporting.best_config import config_file, trial_overrides
from bit_axon.sweep.reporting.finding import Sweep, find_sweep
from bit_axon.sweep.reporting.grids import grid_report
from bit_axon.sweep.reporting.importance import importances
from bit_axon.sweep.reporting.labels import good_range, short_names, value_text
from bit_axon.sweep.reporting.parallel import parallel_figure
from bit_axon.sweep.reporting.plots import curves_figure, history_figure, importance_figure, write_figures
from bit_axon.sweep.reporting.report import (
    Objective,
    Report,
    Row,
    State,
    best_so_far,
    order_of_end,
    outcome,
    remaining_seconds,
)
from bit_axon.sweep.reporting.results import results, write_report
from bit_axon.sweep.reporting.study_report import study_report
from bit_axon.sweep.studies.storage import STORAGE_VARIABLE

START = datetime(2026, 11, 21, 10, 0, 0)


def row_of(number: int, state: Any = "complete", value: float | None = None, **more: Any) -> Row:
    """A trial of a minute, one after the other with a pause of ten seconds."""
    began = START + timedelta(seconds=70 * number)
    ended = began + timedelta(seconds=60) if state not in ("running", "waiting") else None
    values = None if value is None else (value,)
    return Row(number, state, values=values, started=began, ended=ended, **more)


def report_of(*rows: Row, wanted: int | None = None, **more: Any) -> Report:
    return Report("ranks", "study", (Objective(METRIC),), rows, wanted=wanted, **more)


def screen(width: int = 140) -> Console:
    return run_console(width=width)


def table(text: str) -> dict[str, list[str]]:
    """Cells of the lines that begin with a trial's number and its state."""
    lines = [line.split() for line in text.splitlines()]
    return {line[0]: line[1:] for line in lines if len(line) > 1 and line[1] in get_args(State)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of thirteen trials, one of which is another one again."""
    folder = tmp_path_factory.mktemp("made") / "ranks"
    make_study(folder, trials=13)
    return folder


@pytest.fixture
def study(made: Path, outputs: Path) -> optuna.Study:
    """A copy of it in the outputs folder."""
    shutil.copytree(made, outputs / "sweeps" / "ranks")
    return optuna.load_study(study_name="ranks", storage=f"sqlite:///{outputs}/sweeps/ranks/study.db")


def test_states_reasons_and_retries_are_those_of_the_study(study: optuna.Study) -> None:
    report = study_report(study)
    states = {row.number: row.state for row in report.rows}
    assert (states[2], states[5]) == ("retried", "failed")
    assert report.rows[3].retry_of == 2 and report.rows[3].params == report.rows[2].params
    assert {row.reason for row in report.rows if row.state == "pruned"} == {"pruned:median"}
    for row, trial in zip(report.rows, study.trials, strict=True):
        assert (row.values == (trial.value,)) == (row.state == "complete")
        assert row.curve == trial.intermediate_values
    assert report.best[0].number == study.best_trial.number
    assert report.count("complete", "pruned", "failed") == 12 and report.is_done


def test_the_best_of_a_maximized_study_is_the_largest() -> None:
    study = optuna.create_study(direction="maximize")
    for value in (1.0, 3.0, 2.0):
        study.tell(study.ask(), value)
    assert study_report(study).best[0].number == study.best_trial.number == 1


def test_an_infeasible_trial_is_not_the_best_and_says_why() -> None:
    study = optuna.create_study()
    for value, over in ((0.1, 5.0), (0.5, -1.0)):
        trial = study.ask()
        trial.set_constraint("peak_memory_bytes", over)
        study.tell(trial, value)
    report = study_report(study)
    assert report.best[0].number == study.best_trial.number == 1
    assert report.rows[0].reason == "over its limit: peak_memory_bytes"


def test_of_several_objectives_all_that_none_beats() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    for values in ((1.0, 1.0), (2.0, 2.0), (3.0, 1.5), (1.0, 0.5)):
        study.tell(study.ask({"x": FloatDistribution(0, 1)}), values)
    report = study_report(study)
    assert [row.number for row in report.best] == sorted(t.number for t in study.best_trials) == [0, 1]
    assert [entry["values"] for entry in results(report)["solutions"]] == [[1.0, 1.0], [2.0, 2.0]]
    assert history_figure(report) is not None and best_so_far(
        replace(report, objectives=report.objectives[:1])
    )


def test_a_running_trial_without_a_sign_of_life_is_told() -> None:
    study = optuna.create_study()
    trial = study.ask()
    now = datetime.now()
    for minutes, reason in ((1, ""), (15, "no sign of life for 15 min")):
        trial.set_user_attr("owner", {"beat": now.timestamp() - 60 * minutes})
        assert study_report(study, now=now).rows[0].reason == reason
    trial.set_user_attr("sweeper_beat", now.timestamp() - 60)  # it waits to cool down
    assert study_report(study, now=now).rows[0].reason == ""


def test_the_best_so_far_never_changes_backwards() -> None:
    """A point that was sent to MLflow stays true, though trials of several workers end out of order."""
    rows = [row_of(number, "complete", value) for number, value in enumerate((0.5, 0.4, 0.3, 0.45))]
    late = replace(rows[1], ended=START + timedelta(hours=1))
    early = best_so_far(report_of(rows[0], rows[2], rows[3]))
    assert [(place, row.number) for place, row in early] == [(0, 0), (1, 2)]
    assert best_so_far(report_of(rows[0], late, rows[2], rows[3]))[:2] == early
    assert [row.number for row in order_of_end(report_of(rows[0], late, rows[2], rows[3]))] == [0, 2, 3, 1]


def test_the_time_left_counts_pauses_and_what_runs_already() -> None:
    rows = [row_of(n, "complete", 1.0) for n in range(4)]
    now = START + timedelta(seconds=4 * 70 + 30)
    assert remaining_seconds(report_of(*rows, wanted=10), now) == pytest.approx(6 * 70)
    running = row_of(4, "running")  # for half a minute
    assert remaining_seconds(report_of(*rows, running, wanted=10), now) == pytest.approx(6 * 70 - 30)
    two = remaining_seconds(report_of(*rows, running, row_of(4, "running"), wanted=10), now)
    assert two == pytest.approx((6 * 70 - 60) / 2)
    assert remaining_seconds(report_of(*rows), now) is None
    assert remaining_seconds(report_of(row_of(0, "running"), wanted=10), now) is None


def test_a_night_between_two_starts_does_not_count() -> None:
    rows = [row_of(n, "complete", 1.0) for n in range(9)]
    night = timedelta(hours=9)
    later = [
        replace(r, started=r.started + night, ended=r.ended + night)
        for r in rows[5:]
        if r.started and r.ended
    ]
    left = remaining_seconds(report_of(*rows[:5], *later, wanted=10), START)
    assert left == pytest.approx(70.0)


def test_the_table_has_every_trial(
    study: optuna.Study, outputs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert show_sweep("ranks", False, screen()) == 0
    text = capfd.readouterr().out
    cells = table(text)
    best = study.best_trial
    assert list(cells)[:13] == [str(number) for number in range(13)]
    assert cells[str(best.number)][:3] == ["complete", "*", f"{best.value:.4g}"]
    assert cells["2"][0] == "retried" and cells["2"][-1] == "killed"
    assert cells["3"][-2:] == ["2", "again"] and cells["5"][-1] == "nan"
    assert f"12 of 12 trials: {outcome(study_report(study))}." in text
    assert f"Best: trial {best.number} with {best.value:.4g}." in text
    assert "rank" in text and "adapter.rank" not in text


def test_a_short_screen_keeps_the_last_trials_and_the_best(study: optuna.Study) -> None:
    console = run_console(width=140)
    with console.capture() as captured:
        console.print(picture(study_report(study), console, 4))
    text = captured.get()
    best = study.best_trial.number
    assert list(table(text))[:4] == [str(best), "10", "11", "12"]
    assert "9 earlier trials are not shown." in text


def test_an_unfinished_sweep_says_how_much_is_left(outputs: Path) -> None:
    study = make_study(outputs / "sweeps" / "ranks", trials=8, wanted=12)
    study.ask(SPACE)
    text = summary(study_report(study))
    assert text.startswith("7 of 12 trials: ") and "; 1 running." in text and " left." in text
    assert summary(report_of()) == "0 trials: no trial yet."


def test_watching_without_a_terminal_prints_a_line_per_change(
    outputs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = outputs / "sweeps" / "ranks"
    study = make_study(folder, trials=11)

    def sleep(_: float) -> None:
        trial = study.ask(SPACE)
        study.tell(trial, objective(trial.params))

    _watch(Sweep(folder, study), screen(), sleep)
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == [str(number) for number in range(13)]
    assert lines[5].startswith("trial 5 failed: nan  rank=")
    assert lines[-1].startswith("12 of 12 trials")


def test_a_grid_is_shown_in_the_same_way(outputs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_grid(outputs / "sweeps" / "grid")
    (folder / "5" / "result.json").unlink()
    assert show_sweep("grid", False, screen()) == 0
    cells = table(capfd.readouterr().out)
    assert cells["3"][:3] == ["complete", "*", "0.4"] and cells["3"][-2:] == ["dora", "0"]
    assert cells["5"][0] == "running"  # its metrics are fresh
    ended = grid_report(folder, has_ended=True)
    assert (ended.rows[5].state, ended.rows[5].reason) == ("failed", "no result")
    assert ended.distributions["seed"] == CategoricalDistribution([0, 1, 2])
    assert set(ended.distributions) == {"adapter.name", "seed"}


def test_a_sweep_is_found_by_folder_by_name_and_in_a_shared_storage(
    study: optuna.Study, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = outputs / "sweeps" / "ranks"
    shared = f"sqlite:///{folder}/study.db"
    elsewhere = {STORAGE_VARIABLE: f"sqlite:///{tmp_path}/other.db"}
    for text, environment in ((str(folder), {}), ("ranks", {}), ("ranks", elsewhere)):
        found = find_sweep(text, environment)
        assert found.study is not None and found.study.study_name == "ranks" and found.folder == folder
    monkeypatch.setenv("BIT_AXON_OUTPUTS", str(tmp_path / "another-machine"))
    found = find_sweep("ranks", {STORAGE_VARIABLE: shared})
    assert found.folder is None and len(found.report().rows) == 13


def test_a_study_of_another_name_than_its_folder_is_found(outputs: Path) -> None:
    make_study(outputs / "sweeps" / "folder", trials=1, name="ranks")
    found = find_sweep("folder", {})
    assert found.study is not None and found.study.study_name == "ranks"


def test_looking_for_a_sweep_makes_no_database(outputs: Path, tmp_path: Path) -> None:
    make_study(outputs / "sweeps" / "ranks", trials=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunDirectoryError, match="which holds neither a study nor runs"):
        find_sweep(str(tmp_path / "empty"), {})
    with pytest.raises(RunDirectoryError, match="Did you mean 'ranks'"):
        find_sweep("rank", {STORAGE_VARIABLE: f"sqlite:///{outputs}/sweeps/ranks/study.db"})
    assert not list((tmp_path / "empty").iterdir())


def test_the_importance_is_that_of_optuna(study: optuna.Study) -> None:
    found = importances(study_report(study))
    assert found == pytest.approx(optuna.importance.get_param_importances(study))
    assert importances(report_of(row_of(0, "complete", 1.0))) == {}


def test_results_are_in_the_form_of_hydras_optuna_sweeper(study: optuna.Study, tmp_path: Path) -> None:
    report = study_report(study)
    paths = write_report(report, tmp_path)
    figures = {f"{name}.png" for name in ("history", "importance", "parallel", "curves")}
    assert {path.name for path in paths} == {"optimization_results.yaml", "trials.json", *figures}
    found = yaml.safe_load(paths[0].read_text())
    assert (found["name"], found["best_params"]) == ("optuna", study.best_params)
    assert (found["best_value"], found["trial"]) == (study.best_value, study.best_trial.number)
    pruned = sum(trial.state is TrialState.PRUNED for trial in study.trials)
    assert pruned and found["trials"] == {
        "complete": 11 - pruned,
        "pruned": pruned,
        "failed": 1,
        "retried": 1,
    }


def texts(figure: Figure | None) -> str:
    assert figure is not None
    return "\n".join(text.get_text() for text in figure.findobj(match=lambda o: hasattr(o, "get_text")))


def test_figures_show_what_was_found(study: optuna.Study) -> None:
    report = study_report(study)
    best = study.best_trial
    history = history_figure(report)
    assert history is not None
    lines = {line.get_label(): line for line in history.axes[0].lines}
    assert len(lines["complete"].get_ydata()) == report.count("complete")
    assert len(lines["failed"].get_ydata()) == report.count("failed", "retried")
    assert list(lines["best so far"].get_ydata())[-1] == best.value
    assert f"trial {best.number}: {best.value:.4g}" in texts(history)
    parallel = parallel_figure(report)
    assert parallel is not None and {"rank", "scale", "name", METRIC} <= set(texts(parallel).splitlines())
    assert len(parallel.axes[0].lines) == 4 + report.count("complete", "pruned")
    assert "adapter.scale" in texts(importance_figure(report))
    assert f"best: trial {best.number}" in texts(curves_figure(report))


@pytest.mark.parametrize("rows", [(), (row_of(0, "failed"),), (row_of(0, "complete", 1.0),)])
def test_too_little_is_no_error(rows: tuple[Row, ...], tmp_path: Path) -> None:
    report = report_of(*rows)
    write_report(report, tmp_path)
    assert importance_figure(report) is None and parallel_figure(report) is None
    assert results(report)["best_value"] == (1.0 if rows and rows[0].values else None)


def test_equal_values_and_huge_ones_are_drawn(tmp_path: Path) -> None:
    space = {"x": FloatDistribution(0, 1), "name": CategoricalDistribution(["a", None, True])}
    values = [0.5, 0.5, 0.5, 1e9, 0.5, 0.5]
    rows = [
        row_of(n, "complete", value, params={"x": 0.1 * n, "name": ["a", None, True][n % 3]})
        for n, value in enumerate(values)
    ]
    assert len(write_figures(report_of(*rows, distributions=space), tmp_path)) >= 2
    history = history_figure(report_of(*rows, distributions=space))
    assert history is not None and history.axes[0].get_ylim()[1] < 1e9


def test_a_few_bad_trials_are_left_out_of_the_range() -> None:
    assert good_range([*range(1, 20), 1000.0], 1) == (1, 18)
    assert good_range([-1000.0, *range(1, 20)], -1) == (2, 19)


def test_names_are_as_short_as_they_can_be() -> None:
    names = ["adapter.rank", "adapter.scale", "training.scale", "seed", "model.adapter.rank"]
    assert list(short_names(names).values()) == [
        "adapter.rank", "adapter.scale", "training.scale", "seed", "model.adapter.rank",
    ]  # fmt: skip
    assert short_names(["adapter.rank", "method.beta"]) == {"adapter.rank": "rank", "method.beta": "beta"}
    assert [value_text(v) for v in (None, True, 0.000123456, 12345, "a")] == [
        "null", "true", "0.0001235", "12,345", "a",
    ]  # fmt: skip


def test_the_best_trial_is_shown_with_its_command(outputs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study = make_study(outputs / "sweeps" / "ranks", trials=6, with_runs=True)
    assert best_of_sweep("ranks", Request(), screen()) == 0
    text, best = capfd.readouterr().out, study.best_trial
    assert f"trial           {best.number}, complete" in text
    assert f"python -m bit_axon.run adapter.rank={best.params['adapter.rank']}" in text
    assert "trial.number" not in text
    assert not (outputs / "sweeps" / "ranks" / "experiment").exists()


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        (Request(trial=77), RunDirectoryError, "wanted a trial of ranks; got 77"),
        (Request(overrides=("seed=1",)), ConfigError, "wanted --run with overrides"),
        (Request(run=True), RunDirectoryError, "Ask on the machine that ran it.*adapter.rank="),
    ],
)
def test_what_cannot_be_done_is_told(
    study: optuna.Study, request_: Request, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        best_of_sweep("ranks", request_, screen())


def test_without_a_complete_trial_there_is_no_best(outputs: Path) -> None:
    study = make_study(outputs / "sweeps" / "ranks", trials=0)
    study.tell(study.ask(SPACE), state=TrialState.FAIL)
    with pytest.raises(RunDirectoryError, match="got 1 failed"):
        best_of_sweep("ranks", Request(), screen())


def a_study_of(run_dir: Path, folder: Path, overrides: list[str] | None) -> optuna.Study:
    """A study whose only trial ran in `run_dir`, or on another machine with the overrides."""
    folder.mkdir(parents=True)
    study = optuna.create_study(study_name="one", storage=f"sqlite:///{folder}/study.db")
    trial = study.ask({"seed": CategoricalDistribution([7])})
    trial.set_user_attr("run_dir", str(run_dir))
    if overrides is not None:
        trial.set_user_attr("overrides", overrides)
    study.tell(trial, 0.5)
    return study


def composed(*overrides: str, searchpath: Path | None = None) -> dict[str, Any]:
    register_resolvers()
    places = [f"hydra.searchpath=[file://{searchpath}]"] if searchpath else []
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return plain_values(compose("config", [*places, *overrides, "name=x"]))


@pytest.mark.parametrize("is_here", [True, False])
def test_the_written_config_is_the_one_the_trial_ran_with(
    run: Runner, small_run: list[str], outputs: Path, tmp_path: Path, is_here: bool
) -> None:
    overrides = [*small_run, "adapter=lora", "method=orpo", "seed=7"]
    run_dir = tmp_path / "elsewhere"
    if is_here:
        found = run(*overrides).run_dir
        assert found is not None
        run_dir = found
    study = a_study_of(run_dir, outputs / "sweeps" / "one", None if is_here else overrides)
    report = study_report(study)
    place = tmp_path / "mine" / "experiment" / "best.yaml"
    place.parent.mkdir(parents=True)
    place.write_text(config_file(report, report.best[0]))
    again = composed("+experiment=best", "tracking=none", searchpath=tmp_path / "mine")
    assert again == composed(*overrides)
    assert trial_overrides(report.best[0])[-1] == "seed=7"


def test_the_best_config_is_run_with_more_overrides(run: Runner, small_run: list[str], outputs: Path) -> None:
    folder = outputs / "sweeps" / "one"
    overrides = [*small_run, "seed=7", "trial={study:one,number:0,sweep_dir:/x}"]
    a_study_of(folder / "0", folder, overrides)
    runner = CliRunner()
    done = runner.invoke(
        app, ["sweep", "best", "one", "--run", "training.max_steps=3", "training.save_every=0"]
    )
    assert done.exit_code == 0, done.output
    (run_dir,) = (outputs / "runs").iterdir()
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert (config["seed"], config["training"]["max_steps"], config["trial"]) == (7, 3, None)
    assert run_dir.name.endswith("best-of-one")
    assert (folder / "experiment" / "best.yaml").is_file()


def test_the_commands(study: optuna.Study) -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["sweep", "show", "ranks"])
    assert shown.exit_code == 0 and "12 of 12 trials" in shown.output
    assert runner.invoke(app, ["sweep", "show", "ranks", "--watch"]).exit_code == 0
    assert math.isclose(study.best_value, study_report(study).best[0].values[0])  # type: ignore[index]
