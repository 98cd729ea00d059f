"""Whole searches with the tiny model: in this process, or as the commands that a person types."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, Outcome, Runner
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState
from waiting import LONGEST_SECONDS, wait_for

from bit_axon.sweep.studies.counting import tally
from bit_axon.sweep.studies.study import existing_study

NAME = "tiny"

RATE = "training.learning_rate"
SEARCH = f"""# @package _global_
defaults:
  - override /hydra/sweeper: bit_axon
  - override /hydra/launcher: isolated
hydra:
  sweeper:
    n_trials: 2
    sampler: {{name: random, seed: 0}}
    pruner: nop
    params:
      {RATE}: tag(log, interval(1e-4, 1e-2))
"""


@dataclass
class Search:
    """One search in a folder of its own; its processes end with the test."""

    run: Runner
    overrides: list[str]
    outputs: Path
    started: "list[subprocess.Popen[str]]" = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where the sweep is."""
        return self.outputs / "sweeps" / NAME

    def arguments(self, *more: str) -> list[str]:
        """The command's, with `more` behind those of every search here."""
        return [
            "--config-dir",
            str(self.outputs.parent / "own"),
            "-m",
            f"sweep={NAME}",
            *self.overrides,
            *more,
        ]

    def here(self, *more: str) -> Outcome:
        """The command in this process, its trials too."""
        return self.run(*self.arguments("hydra/launcher=basic", *more))

    def start(self, *more: str) -> "subprocess.Popen[str]":
        """The command, begun."""
        process = subprocess.Popen(
            [sys.executable, "-m", "bit_axon.run", *self.arguments(*more)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def finish(self, process: "subprocess.Popen[str]", code: int = 0) -> str:
        """What a command said until its end."""
        said, _ = process.communicate(timeout=LONGEST_SECONDS)
        assert process.returncode == code, said
        assert "Traceback" not in said
        return said

    def trials(self) -> list[FrozenTrial]:
        """All, read anew."""
        storage = f"sqlite:///{self.folder / 'study.db'}"
        return existing_study(NAME, storage, RandomSampler(), NopPruner()).get_trials(deepcopy=False)

    def states(self) -> list[str]:
        """Of all trials, by number."""
        return [trial.state.name for trial in self.trials()]

    def reasons(self) -> list[str | None]:
        """Why each ended, by number."""
        return [trial.user_attrs.get("reason") for trial in self.trials()]

    def result(self, number: int) -> dict[str, Any]:
        """A trial's result.json."""
        return json.loads((self.folder / str(number) / "result.json").read_text())

    def child(self, number: int) -> psutil.Process:
        """The process of a trial that trains."""
        metrics = self.folder / str(number) / "metrics.jsonl"
        wait_for(lambda: metrics.is_file() and '"train"' in metrics.read_text(), f"trial {number} to train")
        owner = self.trials()[number].user_attrs["owner"]
        assert owner["pid"] != owner["sweeper"]["pid"]
        return psutil.Process(owner["pid"])

    def end(self) -> None:
        """Kills the processes of this test that are left."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()
        for pid in (trial.user_attrs["owner"]["pid"] for trial in self._running()):
            if pid != os.getpid() and psutil.pid_exists(pid):
                end_if_ours(psutil.Process(pid), self.folder)

    def _running(self) -> list[FrozenTrial]:
        if not (self.folder / "study.db").is_file():
            return []
        running = [trial for trial in self.trials() if trial.state is TrialState.RUNNING]
        return [trial for trial in running if "owner" in trial.user_attrs]


def end_if_ours(process: psutil.Process, folder: Path) -> None:
    """Kills a trial of this test; a number may be another process's by now."""
    try:
        if any(str(folder) in word for word in process.cmdline()):
            process.kill()
    except psutil.NoSuchProcess:
        return


def make_search(run: Runner, small_run: list[str], outputs: Path) -> Search:
    """A search over the learning rate that says nothing to MLflow and looks at no sensor."""
    file = outputs.parent / "own" / "sweep" / f"{NAME}.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(SEARCH)
    return Search(run, [*small_run, "thermal=off", "training.save_every=0"], outputs)


def check_account(search: Search, n_trials: int, reasons: tuple[str, ...] = ()) -> None:
    """Exactly `n_trials` count and are complete; the others failed for `reasons` and were run again, once."""
    trials = search.trials()
    story = [(trial.number, trial.state.name, trial.params, trial.user_attrs) for trial in trials]
    assert [trial.number for trial in trials] == list(range(len(trials)))
    failed = [trial for trial in trials if trial.state is TrialState.FAIL]
    assert sorted(trial.user_attrs["reason"] for trial in failed) == sorted(reasons), story
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    assert len(complete) == n_trials == tally(trials, retries=1).counted, story
    assert len(trials) == n_trials + len(failed), story
    followers = [trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs]
    assert sorted(followers) == [trial.number for trial in failed], story
    for trial in complete:
        assert search.result(trial.number)["eval_loss_best"] == trial.value
        if "retry_of" in trial.user_attrs:
            assert trial.params == trials[trial.user_attrs["retry_of"]].params
    assert len({trial.params[RATE] for trial in complete}) == n_trials


def one_message(outcome: Outcome, code: int) -> str:
    """The one line that a command ended with."""
    assert outcome.code == code, outcome.err
    assert outcome.err.startswith("bit_axon: ") and "Traceback" not in outcome.err
    pytest.fail(outcome.err) if outcome.err.count("bit_axon: ") != 1 else None
    return outcome.err
