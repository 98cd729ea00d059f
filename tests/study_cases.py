"""Starting real workers on one study, and the account that has to come out right in the end."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from conftest import ROOT
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState
from study_worker import HOLD, STUDY
from waiting import LONGEST_SECONDS, wait_for

from bit_axon.sweep.studies.counting import tally
from bit_axon.sweep.studies.study import existing_study

WORKER = Path(__file__).with_name("study_worker.py")


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is such a place: every commit waits for the disk."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="bit-axon-", dir=memory if memory.is_dir() else None) as name:
        yield Path(name).resolve()


class Workers:
    """Processes of one test; ended with it."""

    def __init__(self, storage: str, folder: Path):
        self.storage, self.folder = storage, folder
        self._started: list[subprocess.Popen[str]] = []

    def hold(self) -> None:
        """From now on trials do not end by themselves: they are there to be hit."""
        (self.folder / HOLD).touch()

    def release(self) -> None:
        """Trials go on to their ends."""
        (self.folder / HOLD).unlink(missing_ok=True)

    def start(self, n_trials: int) -> "subprocess.Popen[str]":
        """One worker of the sweep."""
        arguments = [self.storage, str(self.folder), str(n_trials)]
        process = subprocess.Popen(
            [sys.executable, str(WORKER), *arguments],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def finish(self, process: "subprocess.Popen[str]", code: int = 0) -> str:
        """Waits for a worker; returns what it said."""
        _, said = process.communicate(timeout=LONGEST_SECONDS)
        assert process.returncode == code, said
        return said

    def child(self, number: int) -> psutil.Process:
        """The process of a trial, once it has attached."""
        path = self.folder / f"trial-{number}.pid"
        wait_for(lambda: path.is_file() and path.read_text() != "", f"trial {number} to begin")
        return psutil.Process(int(path.read_text()))

    def trials(self) -> list[FrozenTrial]:
        """All trials, read anew."""
        study = existing_study(STUDY, self.storage, RandomSampler(), NopPruner())
        return study.get_trials(deepcopy=False)

    def end(self) -> None:
        """Kills what is left, trials included."""
        for process in self._started:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
        for path in self.folder.glob("trial-*.pid"):
            end_if_ours(int(path.read_text() or 0))


def end_if_ours(pid: int) -> None:
    """Kills the process if it is one of these tests' trials."""
    try:
        process = psutil.Process(pid)
        if str(WORKER) in process.cmdline():
            process.kill()
    except (psutil.NoSuchProcess, ValueError):
        return


def check_account(
    trials: list[FrozenTrial], n_trials: int, reasons: tuple[str, ...] = (), *, some_lost: bool = False
) -> None:
    """Exactly `n_trials` count; the others failed for `reasons` and their parameters were run again.

    Trials without an owner died while they were asked for; with `some_lost` others may have, too.
    """
    story = [(trial.number, trial.state.name, trial.user_attrs) for trial in trials]
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert not [t for t in trials if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    assert tally(trials, retries=1).counted == n_trials
    failed = [trial for trial in trials if trial.state is TrialState.FAIL]
    found = [trial.user_attrs["reason"] for trial in failed if "owner" in trial.user_attrs]
    if some_lost:
        found = [reason for reason in found if reason != "lost"]
    assert sorted(found) == sorted(reasons), story
    successors = {trial.user_attrs.get("retry_of"): trial for trial in trials}
    for trial in failed:
        assert trial.params.items() <= successors[trial.number].params.items()
    assert len(trials) == n_trials + len(failed)
    distinct = {tuple(sorted(trial.params.items())) for trial in trials if trial not in failed}
    assert len(distinct) == n_trials
