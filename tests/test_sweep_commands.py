"""What a person types after `-m sweep=NAME`, and what is said to it."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Runner
from sweep_run_cases import Search, make_search, one_message
from test_sweep_plugins import SWEEPS, compose, sweeper_of
from waiting import LONGEST_SECONDS, wait_for

from bit_axon import run as run_module
from bit_axon.sweep.config.objectives import known_metrics
from bit_axon.sweep.config.pruners import build_pruner
from bit_axon.sweep.config.settings import read_settings
from bit_axon.sweep.job import number_of
from bit_axon.training.methods import build_method

HYPERBAND = "{name: hyperband, min_resource: 10, max_resource: 100}"
SHORT = {
    "S": "sweep=learning_rate",
    "K": "hydra.sweeper",
    "O": "hydra.sweeper.objectives",
    "L": "hydra.launcher",
}


@pytest.fixture
def search(run: Runner, small_run: list[str], outputs: Path) -> Iterator[Search]:
    found = make_search(run, small_run, outputs)
    yield found
    found.end()


def settings_of(*overrides: str) -> dict[str, Any]:
    """As a search would have them, checked."""
    values: dict[str, Any] = sweeper_of(compose(*overrides)).settings()
    found = read_settings(values).settings
    build_pruner(found.pruner)
    return {"sampler": found.sampler, "pruner": found.pruner}


def test_the_line_of_the_docs_is_the_one_tried_here() -> None:
    assert f"'hydra.sweeper.pruner={HYPERBAND}'" in (ROOT / "docs" / "sweeps.md").read_text()


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize(
    ("overrides", "pruner"),
    [
        (["P=" + HYPERBAND], {"name": "hyperband", "min_resource": 10, "max_resource": 100}),
        (["P.name=hyperband"], {"name": "hyperband"}),
        (["P.name=hyperband", "P.min_resource=4"], {"name": "hyperband", "min_resource": 4}),
        (["P.min_resource=4", "P.name=hyperband"], {"name": "hyperband", "min_resource": 4}),
        (["P=hyperband", "P.min_resource=4"], {"name": "hyperband", "min_resource": 4}),
        (["P.name=percentile"], {"name": "percentile"}),  # it has n_startup_trials too, not the file's
        (
            ["P={name: patient, wrapped: {name: hyperband}}", "P.patience=2"],
            {"name": "patient", "wrapped": {"name": "hyperband"}, "patience": 2},
        ),
    ],
    ids=str,
)
def test_another_pruner_has_none_of_the_files_options(
    name: str,
    overrides: list[str],
    pruner: dict[str, Any],
) -> None:
    given = [each.replace("P", "hydra.sweeper.pruner", 1) for each in overrides]
    assert settings_of(f"sweep={name}", *given)["pruner"] == pruner


@pytest.mark.parametrize("name", SWEEPS)
def test_another_sampler_has_none_of_the_files_options(name: str) -> None:
    whole = settings_of(f"sweep={name}", "hydra.sweeper.sampler={name: random, seed: 1}")
    assert whole["sampler"] == {"name": "random", "seed": 1}
    bare = settings_of(f"sweep={name}", "hydra.sweeper.sampler.name=random")
    assert bare["sampler"] == {"name": "random"}


def test_the_same_name_keeps_the_files_options() -> None:
    given = ["hydra.sweeper.pruner={name: median, n_warmup_steps: 2}", "hydra.sweeper.sampler.name=tpe"]
    assert settings_of("sweep=rank_scale_beta", *given) == {
        "sampler": {"name": "tpe", "seed": 0, "n_startup_trials": 8},
        "pruner": {"name": "median", "n_startup_trials": 3, "n_warmup_steps": 2},
    }


def test_an_option_that_the_new_name_does_not_know_is_named_as_it_was_typed(search: Search) -> None:
    said = one_message(search.here("hydra.sweeper.pruner={name: hyperband, n_startup_trials: 3}"), 2)
    assert "unknown key 'hydra.sweeper.pruner.n_startup_trials'" in said
    assert "by the override hydra.sweeper.pruner={name: hyperband, n_startup_trials: 3}" in said


def test_a_budget_of_one_key_is_a_budget() -> None:
    config = compose("sweep=learning_rate", "hydra.sweeper.heat_budget.paused_fraction=0.5")
    assert sweeper_of(config).settings()["heat_budget"] == {"paused_fraction": 0.5}


def test_a_key_that_is_taken_away(search: Search) -> None:
    assert search.here("~tags", "hydra.sweeper.n_trials=1").code == 0
    assert search.states() == ["COMPLETE"]


def test_a_key_that_is_taken_away_from_a_grid(run: Runner, small_run: list[str], outputs: Path) -> None:
    done = run("-m", *small_run, "training.max_steps=1", "seed=0,1", "~tags")
    assert done.code == 0, done.err
    assert len(list(outputs.rglob("result.json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("S O=[{metric:eval_los}]", "got 'eval_los'. Did you mean 'eval_loss'?"),
        ("S O=[{metric:nll}]", "got 'nll' with method=sft. It belongs to method=orpo."),
        ("S O=[{metric:nll}] method=orpo,sft", "got 'nll' with method=sft."),
        ("S O=[{metric:task_accuracy}]", "without prompts to answer. Set data.valid and"),
        ("S O=[{metric:thermal.max}] thermal=off", "got 'thermal.max' with thermal.source=none."),
        ("S data.valid=null", "got 'eval_loss_best' without validation data. Set data.valid."),
        ("S K.constraints.secs=1", "got 'secs'. Did you mean 'seconds'?"),
        ("sweep=learning_rate,dora_rank", "wanted one search; got sweep=learning_rate,dora_rank"),
        ("sweep=glob(*)", "wanted one search; got sweep=glob(*)"),
        ("S ~tagz", "unknown key 'tagz'. Did you mean 'tags'?"),
        ("S L.timeout_minutes=abc", "hydra.launcher.timeout_minutes: wanted a number; got 'abc'."),
        ("S L.grace_seconds=-1", "hydra.launcher.grace_seconds: wanted a number greater than or equal to 0"),
        ("S +hydra.sweeper.n_trial=3", "unknown key 'hydra.sweeper.n_trial'. Did you mean 'hydra.sweeper"),
        ("S K.trial_minutes=-1", "hydra.sweeper.trial_minutes: wanted a number greater than 0"),
        ("seed=0,1 hydra/launcher=isolated L.timeout_minutes=0", "hydra.launcher.timeout_minutes: wanted a"),
        ("S K.params.adapter.rank=choice(4,8)", "Write the key itself: 'adapter.rank=choice(4,8)'."),
        ("S K.n_trials=1,2", "wanted one value for hydra.sweeper.n_trials; got '1,2', which is several."),
        ("S O=nll", "wanted a list of metrics; got 'nll'. For example 'hydra.sweeper.objectives=[{metric:"),
        ("S K.cooldown=false", "For example 'hydra.sweeper.cooldown={enabled: false}'."),
        ("S K.cooldown={above:3}", "Did you mean 'hydra.sweeper.cooldown.above_base'?"),
        ("S K.constraints=3", "wanted limits by figure; got '3'."),
        ("S K.heat_budget.hour=2", "Did you mean 'hydra.sweeper.heat_budget.hours'?"),
        ("seed=0,1 K.pruner={name:median}", "Choose a search with sweep=NAME, or hydra/sweeper=bit_axon."),
    ],
)  # fmt: skip
def test_a_mistake_is_told_before_there_is_a_study(
    arguments: str, said: str, run: Runner, outputs: Path
) -> None:
    words = [re.sub(r"^[SKOL]\b", lambda found: SHORT[found[0]], word) for word in arguments.split()]
    message = one_message(run("-m", *words), 2)
    assert said in message and "Hydra" not in message and "composes" not in message
    assert not list(outputs.rglob("*.db"))


@pytest.mark.parametrize("method", ["sft", "orpo"])
def test_every_number_an_objective_may_be_is_in_a_result(
    method: str, run: Runner, small_run: list[str]
) -> None:
    done = run(*small_run, f"method={method}", "thermal=simulated_air", "data.accuracy_prompts=1")
    assert done.code == 0, done.err
    missing = [
        name for name in known_metrics(build_method({"name": method})) if not _is_there(done.result, name)
    ]
    assert not missing


def _is_there(result: dict[str, Any], name: str) -> bool:
    holder, _, leaf = name.rpartition(".")
    return number_of(result, name) is not None or leaf in (result[holder] if holder else result)


@pytest.mark.slow
def test_a_search_goes_on_when_nobody_reads_it(search: Search) -> None:
    process = search.start("hydra/launcher=basic")
    assert process.stdout is not None
    process.stdout.close()  # `| head`
    assert process.wait(LONGEST_SECONDS) == 0
    assert search.states() == ["COMPLETE"] * 2


def test_a_pipe_that_was_closed_is_an_end_only_where_something_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(arguments: object) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(run_module, "_compose_and_run", broken)
    for arguments, code in ((["--cfg", "job"], 0), (["-m", "sweep=learning_rate"], 1)):
        with monkeypatch.context() as put_back:
            put_back.setattr(sys, "stdout", sys.stdout)
            assert run_module.main(arguments) == code
            sys.stdout.close()  # the one that nobody reads
    assert "wanted a reader of what is printed" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_is_answered_with_what_it_ends(search: Search) -> None:
    """The one has a trial that runs, the other waits for it."""
    steps = ["training.max_steps=100000", "training.eval_every=0", "training.eval_batches=1"]
    command = [*steps, "hydra.sweeper.n_trials=1", "hydra.launcher.grace_seconds=20"]
    runs = search.start(*command)
    wait_for(lambda: (search.folder / "0" / "metrics.jsonl").is_file(), "trial 0", runs)
    waits = search.start(*command)
    read_until(waits, "Waiting for")
    waits.send_signal(signal.SIGINT)
    said = search.finish(waits, 130)
    assert "Stopping: no more trials are started. Again: at once." in said
    runs.send_signal(signal.SIGINT)
    said = search.finish(runs, 130)
    assert "Stopping the job that runs; it has 20 s. Again: at once." in said


def read_until(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"never said {words}")
