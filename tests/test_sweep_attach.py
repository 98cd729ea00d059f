"""The job's side of a trial: what it says arrives, whatever the storage does, and nothing is told twice."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError
from study_cases import quick_folder
from study_worker import STUDY, Address, open_trials, settings, space
from waiting import slowness, wait_for

from bit_axon.errors import ConfigError
from bit_axon.sweep.studies import lease
from bit_axon.sweep.studies.attach import TrialTakenError, attach
from bit_axon.sweep.studies.handle import TrialHandle
from bit_axon.sweep.studies.storage import STORAGE_VARIABLE, Patience
from bit_axon.sweep.studies.trials import Trials


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[str] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def patience(self, url: str) -> Patience:
        return Patience(url, 300.0, lambda: self.now, self.sleep, self.said.append)


class Job:
    """A study with one trial, and the process that runs it."""

    def __init__(self, folder: Path):
        self.folder, self.url = folder, f"sqlite:///{folder / 'study.db'}"
        self.trials = open_trials(self.url, 1)
        asked = self.trials.ask(space())
        assert asked is not None
        self.number = asked.number
        self.time = Time()
        self.handle = self.attach()

    def attach(self, beat_seconds: float = 3600.0) -> TrialHandle:
        address = Address(STUDY, self.number, str(self.folder))
        return attach(address, {}, patience=self.time.patience(self.url), beat_seconds=beat_seconds)

    @property
    def trial(self) -> Any:
        return self.trials.get(self.number)


@pytest.fixture
def job() -> Iterator[Job]:
    with quick_folder() as folder:
        found = Job(folder)
        yield found
        found.handle.close()


class Outage:
    """While it lasts, no connection to a database can be had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, is_on: Callable[[], bool]):
        def refuse(storage: RDBStorage, *arguments: Any, **named: Any) -> Any:
            if is_on():
                self.calls += 1
                error = StorageInternalError("an exception")
                error.__cause__ = OperationalError("SELECT 1", {}, Exception("connection refused"))
                raise error

        self.calls = 0
        reading = ("_get_trials", "get_trial")
        writing = ("set_trial_user_attr", "set_trial_state_values", "set_trial_intermediate_value")
        for name in reading + writing:
            monkeypatch.setattr(RDBStorage, name, self._guarded(getattr(RDBStorage, name), refuse))

    def _guarded(self, method: Any, refuse: Any) -> Any:
        def call(storage: RDBStorage, *arguments: Any, **named: Any) -> Any:
            refuse(storage)
            return method(storage, *arguments, **named)

        return call


def test_the_job_becomes_the_owner_and_reports_by_step(job: Job) -> None:
    assert lease.is_same(job.trial.user_attrs["owner"], lease.identity())
    assert job.handle.objectives == [{"metric": "eval_loss_best", "direction": "minimize"}]
    assert not job.handle.report(10, 2.0)
    assert not job.handle.report(20, 1.0)
    job.handle.note("run_dir", "a/b")
    assert job.handle.complete([0.75], {"seconds": -3.0, "peak_memory_bytes": 5.0})
    trial = job.trial
    assert (trial.state, trial.values) == (TrialState.COMPLETE, [0.75])
    assert trial.intermediate_values == {10: 2.0, 20: 1.0}
    assert trial.constraints == {"seconds": -3.0, "peak_memory_bytes": 5.0}
    assert trial.user_attrs["run_dir"] == "a/b"


def test_a_trial_is_pruned_with_the_name_of_the_pruner() -> None:
    with quick_folder() as folder:
        url = f"sqlite:///{folder / 'study.db'}"
        trials = open_trials(url, 3)
        for value in (1.0, 1.0, 9.0):
            asked = trials.ask(space())
            assert asked is not None
            handle = attach(Address(STUDY, asked.number, str(folder)), {})
            pruned = handle.report(1, value)
            assert pruned == (value > 1.0)
            assert handle.pruned() if pruned else handle.complete([value])
        worst = trials.get(2)
        assert (worst.state, worst.value) == (TrialState.PRUNED, 9.0)
        assert worst.user_attrs["reason"] == "pruned:median"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_ends_the_trial_as_nan(job: Job, value: float) -> None:
    assert not job.handle.report(1, 3.0)
    assert job.handle.report(2, value)
    assert job.handle.pruned()
    assert (job.trial.state, job.trial.value) == (TrialState.PRUNED, 3.0)
    assert job.trial.user_attrs["reason"] == "nan"
    assert job.trials.is_done()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_that_is_not_finite_is_a_failure_that_counts(job: Job, value: float) -> None:
    assert job.handle.complete([value])
    assert (job.trial.state, job.trial.user_attrs["reason"]) == (TrialState.FAIL, "nan")
    assert job.trials.is_done()


def test_a_constraint_that_is_not_a_number_is_not_kept(job: Job) -> None:
    assert job.handle.complete([1.0], {"seconds": math.nan})
    assert job.trial.constraints == {"seconds": math.inf}


def test_a_failure_is_told_with_its_reason(job: Job) -> None:
    assert job.handle.fail("exception", "ValueError: " + "x" * 5000)
    assert job.trial.state is TrialState.FAIL
    assert job.trial.user_attrs["reason"] == "exception"
    assert len(job.trial.user_attrs["message"]) == 1000


def test_a_step_that_is_evaluated_twice_is_reported_once(job: Job) -> None:
    job.handle.report(1, 3.0)
    job.handle.report(1, 4.0)  # warnings are errors here
    assert job.trial.intermediate_values == {1: 3.0}


def test_with_several_objectives_nothing_is_reported_or_pruned() -> None:
    from optuna.pruners import NopPruner
    from optuna.samplers import RandomSampler

    from bit_axon.sweep.studies.study import open_study

    objectives = [
        {"metric": "eval_loss_best", "direction": "minimize"},
        {"metric": "tokens_per_second", "direction": "maximize"},
    ]
    with quick_folder() as folder:
        url = f"sqlite:///{folder / 'study.db'}"
        changed = settings(objectives=objectives)
        trials = Trials(open_study(STUDY, url, changed, lambda n: RandomSampler(), NopPruner()), url, 1)
        asked = trials.ask(space())
        assert asked is not None
        handle = attach(Address(STUDY, asked.number, str(folder)), {})
        assert not handle.report(1, 2.0)
        assert handle.complete([1.0, 900.0])
        assert trials.get(0).values == [1.0, 900.0]
        assert trials.get(0).intermediate_values == {}


# --- trials that are not this process's any more ----------------------------------------------------------


def test_a_trial_that_has_ended_cannot_be_attached_to(job: Job) -> None:
    job.trials.fail(job.number, "lost")
    with pytest.raises(TrialTakenError, match="trial 0 of the study 'kills' to be running"):
        job.attach()
    with pytest.raises(TrialTakenError):
        attach(Address(STUDY, 5, str(job.folder)), {})
    with pytest.raises(ConfigError, match="'other'"):
        attach(Address("other", 0, str(job.folder)), {})


@pytest.mark.parametrize("last", ["report", "complete", "fail", "pruned"])
def test_a_job_whose_trial_was_given_away_stops_quietly(job: Job, last: str) -> None:
    job.handle.report(1, 2.0)
    job.trials.fail(job.number, "lost", "taken for dead")
    if last == "report":
        assert job.handle.report(2, 1.0)
    elif last == "complete":
        assert not job.handle.complete([0.5])
    else:
        assert not (job.handle.fail("exception") if last == "fail" else job.handle.pruned())
    assert job.handle.taken
    assert not job.handle.pruned()
    assert (job.trial.state, job.trial.user_attrs["reason"]) == (TrialState.FAIL, "lost")
    assert job.trial.value is None


# --- signs of life ----------------------------------------------------------------------------------------


def beat_of(job: Job) -> float:
    return float(job.trial.user_attrs["owner"]["beat"])


def test_beats_go_on_by_themselves_and_end_with_the_trial(job: Job) -> None:
    handle = job.attach(beat_seconds=0.05)
    first = beat_of(job)
    wait_for(lambda: beat_of(job) > first + 0.1, "a beat")
    assert handle.complete([1.0])
    ended = beat_of(job)
    time.sleep(0.2)
    assert beat_of(job) == ended and not handle.taken


def test_calling_beat_often_costs_nothing(job: Job) -> None:
    first = beat_of(job)
    started = time.perf_counter()
    for _ in range(10_000):
        job.handle.beat()
    assert time.perf_counter() - started < 1.0 * slowness()  # 0.1 ms a call: no word to the storage
    assert beat_of(job) == first


def test_a_beat_notices_that_the_trial_was_given_away(job: Job) -> None:
    handle = job.attach(beat_seconds=0.05)
    job.trials.fail(job.number, "lost")
    wait_for(lambda: handle.taken, "the beat to notice")
    assert handle.report(1, 1.0)
    handle.close()


# --- a storage out of reach -------------------------------------------------------------------------------


def test_thirty_seconds_without_storage_cost_no_report_and_little_time(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch, lambda: 1.0 <= job.time.now < 31.0)
    waited = 0.0
    for step in range(1, 61):  # an evaluation a second
        before = job.time.now
        assert not job.handle.report(step, 10.0 / step)
        waited += job.time.now - before
        job.time.now += 1.0
    assert outage.calls
    assert waited < 3.0
    assert len(job.time.said) == 2, "an outage is said once, and once that it is over"
    assert "connection refused. Training goes on; nothing is pruned until it answers." in job.time.said[0]
    assert "Start the same command" not in job.time.said[0]
    assert job.trial.intermediate_values == {step: 10.0 / step for step in range(1, 61)}
    assert job.handle.complete([0.25])


def test_an_end_that_cannot_be_told_at_once_is_told_later(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    Outage(monkeypatch, lambda: job.time.now < 30.0)
    job.handle.report(5, 1.5)
    assert job.handle.complete([1.0])
    assert 30.0 <= job.time.now < 40.0
    assert (job.trial.state, job.trial.intermediate_values) == (TrialState.COMPLETE, {5: 1.5})


def test_an_end_that_cannot_be_told_for_minutes_is_left_to_the_sweeper(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = True
    Outage(monkeypatch, lambda: on)
    assert not job.handle.complete([1.0])
    assert 300.0 <= job.time.now < 301.0
    assert "result.json" in job.time.said[-1] and "Start the same command" not in job.time.said[-1]
    on = False
    assert job.trials.complete(job.number, [1.0]).state is TrialState.COMPLETE


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.FAIL])
def test_an_end_that_arrived_without_an_answer_counts_as_told(
    job: Job, monkeypatch: pytest.MonkeyPatch, state: TrialState
) -> None:
    tell = RDBStorage.set_trial_state_values
    calls = []

    def cut(storage: RDBStorage, *arguments: Any, **named: Any) -> bool:
        done = tell(storage, *arguments, **named)
        calls.append(done)
        if len(calls) == 1:
            raise OperationalError("COMMIT", {}, Exception("server closed the connection"))
        return done

    monkeypatch.setattr(RDBStorage, "set_trial_state_values", cut)
    told = job.handle.complete([0.5]) if state is TrialState.COMPLETE else job.handle.fail("exception")
    assert told and not job.handle.taken and len(calls) == 1
    assert job.trial.state is state


def test_the_address_comes_from_the_environment_alone(job: Job, tmp_path: Path) -> None:
    address = Address(STUDY, job.number, str(tmp_path))
    with pytest.raises(ConfigError):
        attach(address, {})
    handle = attach(address, {STORAGE_VARIABLE: job.url})
    assert handle.complete([1.0])
