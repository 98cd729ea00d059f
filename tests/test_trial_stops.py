"""A Ctrl-C while a trial waits for the study's storage: its end is on the disk, so nothing is waited for."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from optuna.trial import TrialState
from study_cases import quick_folder
from study_worker import STUDY, open_trials, space

from bit_axon.schema import TrialConfig
from bit_axon.stopping import StopRequest
from bit_axon.sweep.job import trial_job
from bit_axon.sweep.studies import attach, handle
from bit_axon.sweep.studies import storage as storages
from bit_axon.sweep.studies.trials import Trials

FINISHED = {"state": "finished", "stop_reason": "max_steps", "step": 4, "eval_loss_best": 0.5}
INTERRUPTED = {**FINISHED, "state": "interrupted", "stop_reason": "interrupt"}
UNTOLD = "The end of trial 0 is not told; it is in the run's result.json."


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(storages, "_LOCKED_SECONDS", 0.05)  # that the driver waits by itself
    for module in (attach, handle):
        monkeypatch.setattr(module, "TELL_SECONDS", 8.0)
    with quick_folder() as found:
        yield found


@pytest.fixture
def trials(folder: Path) -> Trials:
    """Of a study with one trial."""
    found = open_trials(f"sqlite:///{folder / 'study.db'}", 1)
    assert found.ask(space()) is not None
    return found


def address(folder: Path) -> TrialConfig:
    return TrialConfig(study=STUDY, number=0, sweep_dir=str(folder))


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The database is another's alone, so that nobody can read or write it."""
    with closing(sqlite3.connect(folder / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def test_it_ends_the_wait_at_the_end_of_a_trial(
    folder: Path, trials: Trials, capfd: pytest.CaptureFixture[str]
) -> None:
    with trial_job(address(folder)) as job:
        began = time.monotonic()
        with held(folder), interrupted_after(0.5):
            job.on_result(FINISHED)
        assert 0.4 < time.monotonic() - began < 5.0
    assert UNTOLD in capfd.readouterr().err
    assert trials.get(0).state is TrialState.RUNNING  # until somebody adopts its result


def test_one_that_ended_the_run_is_the_first_already(
    folder: Path, trials: Trials, capfd: pytest.CaptureFixture[str]
) -> None:
    with trial_job(address(folder)) as job:
        began = time.monotonic()
        with held(folder):
            job.on_result(INTERRUPTED)
        assert time.monotonic() - began < 2.0
    assert UNTOLD in capfd.readouterr().err


def test_so_is_one_that_broke_the_run(folder: Path, trials: Trials) -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), trial_job(address(folder)), held(folder):
        raise KeyboardInterrupt
    assert time.monotonic() - began < 2.0


def test_it_is_left_to_a_search_that_listens_in_this_process(folder: Path, trials: Trials) -> None:
    with StopRequest().installed() as stop, trial_job(address(folder)) as job:
        with held(folder), interrupted_after(0.5):
            job.on_result(FINISHED)
        assert stop()


def test_it_ends_the_wait_for_the_trial_itself(folder: Path, trials: Trials) -> None:
    began = time.monotonic()
    with StopRequest().installed(), held(folder), interrupted_after(0.5):
        with pytest.raises(KeyboardInterrupt), trial_job(address(folder)):
            pytest.fail("the storage did not answer")
        assert time.monotonic() - began < 5.0


def test_a_storage_that_answers_is_told_all_the_same(folder: Path, trials: Trials) -> None:
    with trial_job(address(folder)) as job:
        job.on_result(INTERRUPTED)
    told = trials.get(0)
    assert (told.state, told.user_attrs["reason"]) == (TrialState.FAIL, "interrupted")
