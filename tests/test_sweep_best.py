"""The best trial again: as a command, as a file, as a run, with the config files that its search used."""

import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from conftest import Runner
from hydra import compose, initialize_config_dir
from optuna.distributions import CategoricalDistribution
from sweep_cases import make_grid, make_study, rewrite_config
from sweep_run_cases import NAME, RATE, Search, make_search
from typer.testing import CliRunner, Result

from bit_axon.cli.main import app
from bit_axon.cli.sweep_best import Request, best_of_sweep
from bit_axon.cli.terminal import run_console
from bit_axon.composition import conf_dir, plain_values, register_resolvers
from bit_axon.errors import ConfigError, RunDirectoryError
from bit_axon.sweep.reporting.best_config import trial_files, trial_overrides
from bit_axon.sweep.reporting.finding import find_sweep
from bit_axon.sweep.reporting.report import Row

OWN_KEYS = ("name", "tags", "trial", "tracking", "resume")  # of each run its own


def experiment(run_dir: Path) -> dict[str, Any]:
    """The config of a run, without what is its own."""
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    return {key: value for key, value in config.items() if key not in OWN_KEYS}


def again(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["sweep", "best", NAME, *arguments])


def run_of_best(search: Search) -> Path:
    """The only run outside the sweep."""
    (run_dir,) = (search.outputs / "runs").iterdir()
    return run_dir


def search_with_an_option(search: Search) -> Path:
    """A search of one trial with an option of its own; the trial's folder."""
    option = search.outputs.parent / "own" / "training" / "mine.yaml"
    option.parent.mkdir()
    option.write_text("defaults: [default]\nepochs: null\nweight_decay: 0.125\n")
    assert search.here("training=mine", "hydra.sweeper.n_trials=1").code == 0
    return search.folder / "0"


@pytest.fixture
def search(run: Runner, small_run: list[str], outputs: Path) -> Search:
    return make_search(run, small_run, outputs)


@pytest.mark.slow
def test_a_search_of_the_users_own_is_repeated(search: Search) -> None:
    try:
        search.finish(search.start("hydra.sweeper.n_trials=1"))
    finally:
        search.end()
    flag = f"--config-dir={search.outputs.parent / 'own'}"
    shown = again()
    assert f"sweep={NAME} " in shown.output and shown.output.split()[-1] == flag
    done = again("--run")
    assert done.exit_code == 0, done.output
    assert experiment(run_of_best(search)) == experiment(search.folder / "0")


@pytest.mark.slow
def test_a_folder_that_was_given_as_a_relative_path_is_found_from_anywhere(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--config-dir", "own", "-m"]
    searched = search.run(
        *flags, f"sweep={NAME}", *search.overrides, "hydra/launcher=basic", "hydra.sweeper.n_trials=1"
    )
    assert searched.code == 0, searched.err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = again("--run")
    assert done.exit_code == 0, done.output
    assert experiment(run_of_best(search)) == experiment(search.folder / "0")


@pytest.fixture
def searched(search: Search) -> Search:
    """A search of two trials that has ended."""
    done = search.here()
    assert done.code == 0, done.err
    return search


@pytest.mark.slow
def test_a_folder_that_is_gone_is_needed_for_overrides_alone(searched: Search) -> None:
    own = searched.outputs.parent / "own"
    shutil.move(own, own.with_name("moved"))
    with pytest.raises(
        RunDirectoryError, match=f"got {own}, which is gone. Put it back, name another with --config-dir"
    ):
        best_of_sweep(NAME, Request(run=True, overrides=("seed=1",)), run_console(width=140))
    assert not (searched.folder / "experiment").exists()
    done = again("--run", "--config-dir", str(own.with_name("moved")), "seed=1")
    assert done.exit_code == 0, done.output
    assert experiment(run_of_best(searched))["seed"] == 1


def test_it_is_the_trial_that_is_run_and_not_what_its_files_say_today(
    search: Search, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = experiment(search_with_an_option(search))
    option = tmp_path / "own" / "training" / "mine.yaml"
    option.write_text(option.read_text().replace("0.125", "0.5"))
    assert best_of_sweep(NAME, Request(run=True), run_console(width=140)) == 0
    said = capfd.readouterr().out
    first = run_of_best(search)
    assert experiment(first) == wanted and wanted["training"]["weight_decay"] == 0.125
    assert (
        "Changed since the run:\n  config: training.weight_decay was 0.125, the config files say 0.5\n"
        in said
    )
    assert best_of_sweep(NAME, Request(run=True, overrides=("seed=1",)), run_console(width=140)) == 0
    (second,) = {*first.parent.iterdir()} - {first}
    assert experiment(second) == {**wanted, "seed": 1}
    shutil.rmtree(tmp_path / "own")
    capfd.readouterr()
    assert best_of_sweep(NAME, Request(run=True), run_console(width=140)) == 0
    assert f"its config files were in {tmp_path / 'own'}, which is gone; the saved" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cfg=job"], "overrides behind --run; got --cfg"),
        (["hydra.run.dir=x"], r"is trained; got hydra\.run\.dir=x, which is each run's own\. Leave"),
        (["resume=x"], "is trained; got resume=x,"),
        (["+trial.number=1"], "is trained; got [+]trial.number=1,"),
        (["--config-dir"], r"behind --config-dir; got nothing\. Write --config-dir DIR"),
        (["--config-dir", "/nowhere", "seed=1"], "behind --config-dir; got '/nowhere', which is no folder"),
        (["seed=1", "--config-dir="], "behind --config-dir; got '', which is no folder"),
    ],
)
def test_behind_run_are_overrides_of_the_run(words: list[str], says: str, outputs: Path) -> None:
    folder = make_grid(outputs / "sweeps" / NAME)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigError, match=says):
        best_of_sweep(NAME, Request(run=True, overrides=tuple(words)), run_console(width=140))
    assert sorted(folder.rglob("*")) == before and not (outputs / "runs").exists()


def test_a_trial_of_another_machine_is_run_with_the_config_files_that_are_named(search: Search) -> None:
    trial = search_with_an_option(search)
    wanted = experiment(trial)
    shutil.rmtree(trial)
    own = str(search.outputs.parent / "own")
    assert best_of_sweep(NAME, Request(True, overrides=("--config-dir", own)), run_console(width=140)) == 0
    assert experiment(run_of_best(search)) == wanted
    written = yaml.safe_load((search.folder / "experiment" / "best.yaml").read_text())
    assert written["training"] == wanted["training"] and written["training"]["weight_decay"] == 0.125


@pytest.mark.parametrize("lost", ["repro.json", "config.yaml"])
def test_a_trial_whose_files_are_not_whole_is_composed_anew(
    lost: str, search: Search, capfd: pytest.CaptureFixture[str]
) -> None:
    trial = search_with_an_option(search)
    wanted = experiment(trial)
    (trial / lost).unlink()
    assert best_of_sweep(NAME, Request(True), run_console(width=140)) == 0
    assert "has no config.yaml and repro.json here: its config is composed anew" in capfd.readouterr().out
    assert experiment(run_of_best(search)) == wanted


def test_another_trial_leaves_the_best_ones_file_alone(searched: Search) -> None:
    best = find_sweep(NAME).report().best[0].number
    assert again("--run").exit_code == 0
    file = searched.folder / "experiment" / "best.yaml"
    kept = file.read_text()
    done = again("--trial", str(1 - best), "--run", "training.max_steps=2")
    assert done.exit_code == 0, done.output
    assert file.read_text() == kept and f"# Trial {best} of" in kept
    other = file.with_name(f"trial-{1 - best}.yaml").read_text()
    assert yaml.safe_load(other)["training"] == experiment(searched.folder / str(1 - best))["training"]
    first, second = sorted(path.name for path in (searched.outputs / "runs").iterdir())
    assert first.endswith(f"-best-of-{NAME}") and second.endswith(f"-trial-{1 - best}-of-{NAME}")


@pytest.mark.slow
def test_the_best_one_by_its_number_is_the_best_one(searched: Search) -> None:
    best = find_sweep(NAME).report().best[0].number
    assert again("--trial", str(best), "--run").exit_code == 0
    assert [path.name for path in (searched.folder / "experiment").iterdir()] == ["best.yaml"]
    assert run_of_best(searched).name.endswith(f"best-of-{NAME}")


@pytest.mark.slow
def test_the_written_file_needs_no_option_of_the_users_own(search: Search, tmp_path: Path) -> None:
    trial = search_with_an_option(search)
    place = tmp_path / "mine" / "experiment" / "best.yaml"
    place.parent.mkdir(parents=True)
    assert again("--write", str(place)).exit_code == 0
    register_resolvers()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        overrides = [f"hydra.searchpath=[file://{tmp_path / 'mine'}]", "+experiment=best", "name=x"]
        found = plain_values(compose("config", overrides))
    wanted = experiment(trial)
    assert wanted["training"]["weight_decay"] == 0.125
    assert {key: value for key, value in found.items() if key not in OWN_KEYS} == wanted


def test_values_to_give_by_hand_are_spelled_as_overrides() -> None:
    params = {"method": None, "a.b": True, "c": "x,y", RATE: 1e-05, "name": "dora"}
    with pytest.raises(RunDirectoryError) as told:
        trial_overrides(Row(3, "complete", params=params))
    words = str(told.value).partition("by hand: ")[2]
    assert words == f"""method=null a.b=true 'c='"'"'x,y'"'"'' {RATE}=1e-05 name=dora"""


@pytest.mark.slow
def test_a_name_with_a_quote_is_no_trouble(run: Runner, small_run: list[str], outputs: Path) -> None:
    folder = outputs / "sweeps" / "one"
    folder.mkdir(parents=True)
    study = optuna.create_study(study_name="it's", storage=f"sqlite:///{folder}/study.db")
    trial = study.ask({"seed": CategoricalDistribution([7])})
    trial.set_user_attr("overrides", [*small_run, "seed=7"])
    study.tell(trial, 0.5)
    assert best_of_sweep("one", Request(run=True), run_console(width=140)) == 0
    (run_dir,) = (outputs / "runs").iterdir()
    assert run_dir.name.endswith("best-of-it-s")


def test_a_trial_of_a_study_without_runs_has_no_flags(outputs: Path) -> None:
    make_study(outputs / "sweeps" / "ranks", trials=3)
    assert trial_files(find_sweep("ranks").report().best[0]).flags == []


def test_jobs_that_cannot_be_compared_have_no_best(outputs: Path) -> None:
    folder = make_grid(outputs / "sweeps" / "grid")
    for number, method in ((0, "sft"), (1, "orpo")):
        rewrite_config(folder / str(number), {"method.name": method}, None)
    with pytest.raises(ConfigError, match="no figure in common"):
        best_of_sweep("grid", Request(), run_console(width=120))
