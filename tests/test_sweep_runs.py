"""Whole searches: `python -m bit_axon.run -m sweep=NAME` to its end, killed, gone on with, gone wrong."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Runner, rows_file
from optuna.trial import TrialState
from sweep_run_cases import RATE, Search, check_account, make_search, one_message
from test_thermal_run import EAGER
from waiting import slowness, wait_for

from bit_axon.launch import MIRRORED_BY_SWEEPER
from bit_axon.sweep.reporting.finding import find_sweep
from bit_axon.sweep.studies.counting import tally
from bit_axon.sweep.studies.storage import STORAGE_VARIABLE
from bit_axon.tracking.parent import read_parent

REPORT = ["curves.png", "history.png", "parallel.png", "trials.json"]
LONG = ["training.max_steps=150", "training.eval_every=75", "training.eval_batches=1"]  # to be hit in between
BAD_RATE = 1e35  # the first update with it leaves no finite weight


@pytest.fixture
def search(run: Runner, small_run: list[str], outputs: Path) -> Iterator[Search]:
    found = make_search(run, small_run, outputs)
    yield found
    found.end()


def choices(*values: object) -> list[str]:
    """Overrides that try each of some learning rates once, in an order of the seed's."""
    listed = ",".join(map(str, values))
    return [
        f"hydra.sweeper.params.{RATE}='choice({listed})'",
        "hydra.sweeper.sampler={name: grid, seed: 0}",
        f"hydra.sweeper.n_trials={len(values)}",
    ]


def test_a_search_from_beginning_to_end(search: Search) -> None:
    said = search.finish(search.start())
    check_account(search, 2)
    assert "trial 1 | finished after 4 steps" in said and "; 2 of 2" in said and "MLflow" not in said
    for number, trial in enumerate(search.trials()):
        folder = search.folder / str(number)
        result = search.result(number)
        assert (result["state"], result["step"]) == ("finished", 4)
        assert trial.user_attrs["owner"]["pid"] != trial.user_attrs["owner"]["sweeper"]["pid"]
        assert list(trial.intermediate_values) == [2, 4]
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["training"]["learning_rate"] == trial.params[RATE]
        assert config["trial"]["number"] == number
        assert "finished after 4 steps" in (folder / "launcher.log").read_text()
    found = yaml.safe_load((search.folder / "optimization_results.yaml").read_text())
    best = min(search.trials(), key=lambda trial: trial.value or 0.0)
    assert str(best.params[RATE]) in json.dumps(found)
    assert {path.name for path in (search.folder / "report").iterdir()} >= set(REPORT)
    parent = read_parent(search.folder)
    assert parent is not None and parent.kind == "study"


@pytest.mark.slow
def test_the_same_command_again_a_larger_number_and_a_retreat(search: Search) -> None:
    assert search.here().code == 0
    before = search.trials()
    again = search.here()
    assert again.code == 0 and "2 trials, 2 of them ended before" in again.out
    assert [trial.datetime_complete for trial in search.trials()] == [t.datetime_complete for t in before]
    assert search.here("hydra.sweeper.n_trials=3").code == 0
    check_account(search, 3)
    assert [trial.params for trial in search.trials()[:2]] == [trial.params for trial in before]
    assert search.here().code == 0  # fewer than there are: nothing to do
    assert len(search.trials()) == 3
    assert not {MIRRORED_BY_SWEEPER, STORAGE_VARIABLE} & os.environ.keys()


@pytest.mark.slow
def test_another_search_is_refused_with_what_differs(search: Search) -> None:
    assert search.here("hydra.sweeper.n_trials=1").code == 0
    other = {
        f"hydra.sweeper.params.{RATE}='tag(log,interval(1e-4,1e-1))'": RATE,
        "hydra.sweeper.params.seed='choice(1,2)'": "seed",
        "hydra.sweeper.objectives=[{metric: eval_loss, direction: minimize}]": "eval_loss",
        "hydra.sweeper.constraints.seconds=600": "seconds",
        "training.max_steps=5": "training.max_steps: 4 before, 5 now",
        "adapter=lora": "adapter.name",
    }
    for override, key in other.items():
        said = one_message(search.here(override), 2)
        assert key in said and "'tiny' was begun with" in said and "hydra.sweeper.study_name=" in said
    assert len(search.trials()) == 1
    allowed = ["hydra.sweeper.pruner=nop", "hydra.sweeper.retries=3", "thermal=simulated_air", "name=other"]
    assert search.here("hydra.sweeper.n_trials=1", *allowed).code == 0


def test_a_pruned_trial_is_no_failure(search: Search) -> None:
    pruner = "hydra.sweeper.pruner={name: threshold, upper: 0.001}"
    done = search.here(pruner)
    assert done.code == 0, done.err
    assert search.states() == ["PRUNED", "PRUNED"]
    assert search.reasons() == ["pruned:threshold"] * 2
    for number in (0, 1):
        result = search.result(number)
        assert (result["state"], result["stop_reason"], result["step"]) == ("pruned", "pruned", 2)
    assert "pruned at step 2" in done.out
    assert tally(search.trials(), retries=1).counted == 2
    assert search.here(pruner).code == 0
    assert len(search.trials()) == 2


@pytest.mark.slow
def test_a_trial_that_diverges_fails_alone(search: Search) -> None:
    rates = choices(1e-3, BAD_RATE, 2e-3)
    done = search.here(*rates)
    assert done.code == 0, done.err
    by_rate = {trial.params[RATE]: trial for trial in search.trials()}
    assert len(by_rate) == 3
    bad = by_rate.pop(BAD_RATE)
    assert (bad.state, bad.user_attrs["reason"]) == (TrialState.FAIL, "nan")
    assert all(trial.state is TrialState.COMPLETE for trial in by_rate.values())
    assert search.here(*rates).code == 0  # it is not tried again
    assert len(search.trials()) == 3


@pytest.mark.slow
def test_a_trial_that_breaks_fails_alone(search: Search, tmp_path: Path) -> None:
    """Of two data files, the one that is not used yet is deleted in between."""
    files = [str(tmp_path / "train.jsonl"), str(rows_file(tmp_path / "other.jsonl", 40))]
    search.overrides = [each for each in search.overrides if not each.startswith("data.train=")]
    data = [
        f"hydra.sweeper.params.data.train='choice({','.join(files)})'",
        f"{RATE}=1e-3",
        "hydra.sweeper.sampler={name: grid, seed: 0}",
    ]
    assert search.here(*data, "hydra.sweeper.n_trials=1").code == 0
    (gone,) = set(files) - {search.trials()[0].params["data.train"]}
    Path(gone).unlink()
    done = search.here(*data, "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    assert search.states() == ["COMPLETE", "FAIL"] and search.reasons() == [None, "exception"]
    assert gone in search.trials()[1].user_attrs["message"]
    assert f"{RATE} is fixed on the command line" in done.out


@pytest.mark.slow
def test_a_grid_sampler_ends_when_every_combination_was_run(search: Search) -> None:
    rates = [each for each in choices(1e-3, 2e-3) if "n_trials" not in each]
    done = search.here(*rates, "hydra.sweeper.n_trials=20")
    assert done.code == 0 and "grid has 2 combinations: n_trials=2 instead of 20." in done.out
    assert sorted(trial.params[RATE] for trial in search.trials()) == [1e-3, 2e-3]
    assert find_sweep(str(search.folder)).report().wanted == 2


def test_too_many_failures_in_a_row_end_the_search(search: Search) -> None:
    command = [*choices(BAD_RATE, 2 * BAD_RATE, 3 * BAD_RATE), "hydra.sweeper.max_failures=2"]
    done = search.here(*command)
    assert done.code == 1
    last = [line for line in done.err.splitlines() if "hydra.sweeper.max_failures" in line]
    assert len(last) == 1 and last[0].startswith("bit_axon: wanted trials that run") and "trial 1" in last[0]
    assert done.err.rstrip().endswith(last[0]) and "Traceback" not in done.err
    assert search.reasons() == ["nan", "nan"]
    assert (search.folder / "optimization_results.yaml").is_file()


@pytest.mark.slow
def test_a_trial_out_of_time_has_failed_for_good(search: Search) -> None:
    said = search.finish(
        search.start("hydra.sweeper.n_trials=1", "hydra.sweeper.trial_minutes=0.001"), code=1
    )
    assert "wanted a trial with a value; got 1 that failed" in said
    assert search.reasons() == ["timeout"] and search.states() == ["FAIL"]
    assert "failed (timeout" in said
    note = "trial_minutes is not heeded: only hydra/launcher=isolated"
    assert note in search.here("hydra.sweeper.n_trials=2", "hydra.sweeper.trial_minutes=0.001").out


@pytest.mark.slow
def test_a_trial_out_of_time_while_it_trains(search: Search) -> None:
    """It is told to stop, and saves; that is no interruption that is to be repeated."""
    endless = ["training.max_steps=1000000", "training.eval_every=0", "training.warmup_steps=0"]
    minutes = f"hydra.sweeper.trial_minutes={0.3 * slowness()}"  # several times what it takes to begin
    search.finish(search.start(*endless, minutes, "hydra.sweeper.n_trials=1"), code=1)
    assert search.reasons() == ["timeout"]
    assert search.result(0)["state"] == "interrupted"


@pytest.mark.slow
def test_a_trial_that_heat_has_stopped_is_repeated_until_it_is_given_up(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ["training.max_steps=12", "training.eval_every=12", "hydra.sweeper.n_trials=1"]
    hot = [*steps, *EAGER, "hydra.sweeper.cooldown.enabled=false"]
    assert search.here(*hot, "hydra.sweeper.timeout_minutes=1e-6").code == 0
    assert not search.trials()  # there was no time for one
    with monkeypatch.context() as impatient:
        impatient.setattr("bit_axon.sweep.studies.counting.MOST_UNCHARGED", 1)
        assert search.here(*hot).code == 1  # no trial has a value
        assert search.reasons() == ["thermal_stop"] * 2
        assert search.result(0)["stop_reason"] == "thermal"
        assert tally(search.trials(), retries=1).counted == 1  # given up
    assert search.here(*steps).code == 0  # cool now, and more patience
    check_account(search, 1, ("thermal_stop", "thermal_stop"))


def test_a_grid_has_a_parent_and_a_report(run: Runner, small_run: list[str], outputs: Path) -> None:
    command = ["-m", *small_run, "training.max_steps=1", f"hydra.sweep.dir={outputs}/sweeps/grid"]
    done = run(*command, "adapter=lora,dora", "seed=0,1")
    assert done.code == 0, done.err
    folder = outputs / "sweeps" / "grid"
    parent = read_parent(folder)
    assert parent is not None and (parent.kind, parent.name) == ("grid", "grid")
    found = json.loads((folder / "report" / "trials.json").read_text())
    assert all(name in json.dumps(found) for name in ("adapter.name", "seed"))
    assert (folder / "optimization_results.yaml").is_file()


def test_a_grid_without_a_right_config_leaves_no_parent(
    run: Runner, small_run: list[str], outputs: Path
) -> None:
    assert run("-m", *small_run, "training.learning_rate=-1,-2").code == 2
    assert not list(outputs.rglob("parent.json")) and not list(outputs.rglob("report"))


@pytest.mark.slow
def test_a_grid_of_isolated_jobs_in_mlflow(run: Runner, small_run: list[str], outputs: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{outputs.parent}/mlflow.db"
    command = [each for each in small_run if each != "tracking=none"]
    place = [f"tracking.uri={uri}", f"hydra.sweep.dir={outputs}/sweeps/grid", "thermal=off"]
    done = run("-m", *command, *place, "seed=0,1", "hydra/launcher=isolated")
    assert done.code == 0, done.err
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("bit_axon")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [each for each in runs if each.data.tags.get("bit_axon.kind") == "grid"]
    children = [each for each in runs if each.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 2 == len(runs) - 1
    assert parent.info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["isolated", "basic"])
def test_a_median_pruner_prunes(search: Search, launcher: str) -> None:
    """The learning rates of the last trials are hopeless, and the first two set the median."""
    command = [
        f"hydra.sweeper.params.{RATE}='choice(1e-2,5e-3,1e-7,1e-8)'",
        "hydra.sweeper.sampler={name: grid, seed: 3}",
        "hydra.sweeper.pruner={name: median, n_startup_trials: 1}",
        "hydra.sweeper.n_trials=4",
        "training.max_steps=12",
        f"hydra/launcher={launcher}",
    ]
    search.finish(search.start(*command))
    trials = search.trials()
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED]
    assert pruned and len(trials) == 4
    assert {trial.user_attrs["reason"] for trial in pruned} == {"pruned:median"}
    assert all(search.result(trial.number)["step"] < 12 for trial in pruned)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "reason"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "interrupted"), (signal.SIGKILL, "killed")],
)
def test_a_killed_trial_fails_alone(search: Search, signum: signal.Signals, reason: str) -> None:
    sweeper = search.start(*LONG)
    search.child(0).send_signal(signum)
    search.finish(sweeper)
    check_account(search, 2, (reason,))
    search.finish(search.start(*LONG))
    assert len(search.trials()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["isolated", "basic"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_search_goes_on(search: Search, signum: signal.Signals, launcher: str) -> None:
    command = [*LONG, f"hydra/launcher={launcher}"]
    sweeper = search.start(*command)
    wait_for_training(search, 0)
    sweeper.send_signal(signum)
    said = search.finish(sweeper, code=130)
    assert said.count("bit_axon: interrupted") == 1
    assert search.reasons() == ["interrupted"]
    search.finish(search.start(*command))
    check_account(search, 2, ("interrupted",))


@pytest.mark.slow
def test_the_trial_of_a_killed_search_ends_by_itself(search: Search) -> None:
    sweeper = search.start(*LONG)
    child = search.child(0)
    sweeper.kill()
    search.finish(sweeper, code=-signal.SIGKILL)
    assert child.is_running()
    said = search.finish(search.start(*LONG))
    assert "Waiting for trial 0 of a sweep that was killed" in said
    check_account(search, 2)


@pytest.mark.slow
def test_when_both_are_killed_the_trial_is_found_and_run_again(search: Search) -> None:
    sweeper = search.start(*LONG)
    child = search.child(0)
    sweeper.kill()
    child.kill()
    search.finish(sweeper, code=-signal.SIGKILL)
    wait_for(lambda: not child.is_running(), "the trial to be gone")
    search.finish(search.start(*LONG))
    check_account(search, 2, ("lost",))


@pytest.mark.slow
def test_a_search_in_one_process_that_is_killed(search: Search) -> None:
    command = [*LONG, "hydra/launcher=basic"]
    sweeper = search.start(*command)
    wait_for_training(search, 0)
    sweeper.kill()
    search.finish(sweeper, code=-signal.SIGKILL)
    search.finish(search.start(*command))
    check_account(search, 2, ("lost",))


@pytest.mark.slow
def test_two_workers_on_one_search(search: Search) -> None:
    command = ["hydra/launcher=basic", "hydra.sweeper.n_trials=5"]
    workers: list[subprocess.Popen[str]] = [search.start(*command) for _ in range(2)]
    for worker in workers:
        search.finish(worker)
    check_account(search, 5)
    sweepers = {trial.user_attrs["owner"]["sweeper"]["pid"] for trial in search.trials()}
    assert sweepers <= {worker.pid for worker in workers}


def wait_for_training(search: Search, number: int) -> None:
    metrics = search.folder / str(number) / "metrics.jsonl"
    wait_for(lambda: metrics.is_file() and '"train"' in metrics.read_text(), f"trial {number} to train")
