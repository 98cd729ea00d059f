"""A run as a trial: what it tells at its end, and who tells it when it cannot."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobReturn
from optuna.trial import FrozenTrial, TrialState
from study_cases import quick_folder
from study_worker import STUDY, curve, open_trials, settings, space
from test_sweep_study import EQUAL, STEPS, MakeSampler, as_optuna_does

from bit_axon.errors import ConfigError, NonFiniteLossError, RunDirectoryError, StorageError
from bit_axon.schema import TrialConfig
from bit_axon.sweep.beginning import refuse_runs_of_another
from bit_axon.sweep.config.pruners import build_pruner
from bit_axon.sweep.config.settings import Objective
from bit_axon.sweep.ends import Ends
from bit_axon.sweep.job import constraints_of, end_of, trial_job
from bit_axon.sweep.launching.child import Ending
from bit_axon.sweep.launching.isolated import IsolatedReturn
from bit_axon.sweep.studies.attach import trial_of
from bit_axon.sweep.studies.lease import identity, is_orphan, new_owner
from bit_axon.sweep.studies.study import open_study
from bit_axon.sweep.studies.trials import Trials
from bit_axon.sweep.sweeper import Search
from bit_axon.tracking.parent import declare_parent
from bit_axon.training.records import EvaluationRecord

OBJECTIVE = [{"metric": "eval_loss_best"}]
FINISHED = {"state": "finished", "stop_reason": "max_steps", "step": STEPS, "eval_loss_best": 0.5}
GONE = {"host": identity()["host"], "pid": 2**22 - 7, "started": 1.0}
LAST_STEP: MakeSampler = EQUAL["random, halving"][0]


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as found:
        yield found


@pytest.fixture
def storage(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


def asked(trials: Trials) -> FrozenTrial:
    trial = trials.ask(space())
    assert trial is not None
    return trial


def address(number: int, folder: Path) -> TrialConfig:
    return TrialConfig(study=STUDY, number=number, sweep_dir=str(folder))


# --- the trial itself -------------------------------------------------------------------------------------


def run_as_trial(where: TrialConfig, params: dict[str, Any]) -> None:
    """As the loop does: it looks whether it is pruned before each step, and there is none after the last."""
    with trial_job(where) as job:
        for step in range(1, STEPS + 1):
            value = curve(params, step)
            job.on_evaluation(EvaluationRecord(step, value, value, examples=1, seconds=0.1))
            if job.is_pruned() and step < STEPS:
                job.on_result({"state": "pruned", "stop_reason": "pruned", "step": step})
                return
        job.on_result({**FINISHED, "eval_loss_best": curve(params, STEPS)})


@pytest.mark.parametrize(
    ("make", "spec"),
    [
        *EQUAL.values(),
        (LAST_STEP, {"name": "threshold", "upper": 2.0, "n_warmup_steps": STEPS}),  # at the last step alone
    ],
    ids=[*EQUAL, "random, threshold at the last step"],
)
def test_jobs_end_as_in_optunas_own_loop(
    storage: str, folder: Path, make: MakeSampler, spec: dict[str, Any]
) -> None:
    wanted = as_optuna_does(make(), build_pruner(spec), 14)
    study = open_study(STUDY, storage, settings(pruner=spec), lambda sessions: make(), build_pruner(spec))
    trials = Trials(study, storage, 14)
    while (trial := trials.ask(space())) is not None:
        run_as_trial(address(trial.number, folder), trial.params)
    found = trials.all()
    assert [trial.params for trial in found] == [trial.params for trial in wanted]
    assert [trial.state for trial in found] == [trial.state for trial in wanted]
    assert [trial.value for trial in found] == [trial.value for trial in wanted]
    assert [t.intermediate_values for t in found] == [t.intermediate_values for t in wanted]
    assert {trial.state for trial in found} == {TrialState.COMPLETE, TrialState.PRUNED}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StorageError("No space left"), "storage"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("[metal::malloc] Attempting to allocate 9 bytes"), "out_of_memory"),
        (NonFiniteLossError("the loss is nan"), "nan"),
        (ConfigError("wrong"), "exception"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_what_broke_a_run_is_told_by_its_kind(
    storage: str, folder: Path, error: BaseException, reason: str
) -> None:
    trials = open_trials(storage, 1)
    number = asked(trials).number
    with pytest.raises(type(error)), trial_job(address(number, folder)):
        raise error
    told = trials.get(number)
    assert (told.state, told.user_attrs["reason"]) == (TrialState.FAIL, reason)


def test_the_run_directory_is_kept_with_the_trial(storage: str, folder: Path) -> None:
    trials = open_trials(storage, 1)
    number = asked(trials).number
    with trial_job(address(number, folder)) as job:
        job.on_prepared(folder / "0" / "thermal.csv", 85.0, STEPS)
        job.on_result(FINISHED)
    assert trials.get(number).user_attrs["run_dir"] == str(folder / "0")


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        ({}, "complete", ""),
        ({"state": "pruned", "stop_reason": "pruned"}, "pruned", "pruned"),
        ({"state": "interrupted", "stop_reason": "interrupt"}, "failed", "interrupted"),
        ({"state": "stopped", "stop_reason": "thermal"}, "failed", "thermal_stop"),
        ({"state": "stopped", "stop_reason": "time_limit"}, "complete", ""),
        ({"eval_loss_best": None}, "failed", "exception"),
        ({"eval_loss_best": math.inf}, "failed", "nan"),
    ],
)
def test_the_end_of_a_result(changes: dict[str, Any], state: str, reason: str) -> None:
    end = end_of({**FINISHED, **changes}, OBJECTIVE, {"seconds": 1.0})
    assert (end.state, end.reason) == (state, reason)
    assert end.values == ((0.5,) if state == "complete" else ())


def test_every_constraint_has_a_value() -> None:
    limits = {"peak_memory_bytes": 1000.0, "seconds": 60.0, "thermal.max": 90.0}
    found = constraints_of({"peak_memory_bytes": 5000, "seconds": {"total": 50.0}, "thermal": None}, limits)
    assert found == {"peak_memory_bytes": 4000.0, "seconds": -10.0, "thermal.max": 0.0}


# --- for a trial that could not tell ----------------------------------------------------------------------


def launched(reason: str | None, result: dict[str, Any] | None) -> JobReturn:
    return IsolatedReturn(ending=Ending(0 if reason is None else 1, reason, "its last words"), result=result)


@pytest.mark.parametrize(
    ("reason", "result", "state", "told"),
    [
        (None, {**FINISHED, "peak_memory_bytes": 1e9}, TrialState.COMPLETE, None),
        (None, {**FINISHED, "state": "pruned", "stop_reason": "pruned"}, TrialState.PRUNED, "pruned"),
        ("timeout", {**FINISHED, "stop_reason": "interrupt"}, TrialState.FAIL, "timeout"),
        ("interrupted", {**FINISHED, "stop_reason": "interrupt"}, TrialState.FAIL, "interrupted"),
        (None, None, TrialState.FAIL, "lost"),
        ("killed", FINISHED, TrialState.FAIL, "killed"),
    ],
)
def test_the_sweep_tells_what_a_run_could_not(
    storage: str, reason: str | None, result: dict[str, Any] | None, state: TrialState, told: str | None
) -> None:
    trials = open_trials(storage, 1)
    number = asked(trials).number
    trial_of(trials.study, number).set_user_attr("owner", new_owner(identity()) | GONE)
    ends = Ends(trials, [Objective()], {"peak_memory_bytes": 1000.0})
    found = ends.with_an_end(number, launched(reason, result))
    assert (found.state, found.user_attrs.get("reason")) == (state, told)
    if state is TrialState.COMPLETE:
        assert found.constraints == {"peak_memory_bytes": 1e9 - 1000.0}


def test_a_job_that_never_took_its_trial_is_tried_again(storage: str) -> None:
    trials = open_trials(storage, 1)
    number = asked(trials).number
    found = Ends(trials, [Objective()], {}).with_an_end(number, launched("exception", None))
    assert found.user_attrs["reason"] == "lost"
    assert "its last words" in found.user_attrs["message"]
    assert [trial.number for trial in trials.tally().to_retry] == [number]


def test_a_result_that_nobody_told_is_told_by_the_next_start(storage: str, folder: Path) -> None:
    trials = open_trials(storage, 2)
    for number in (asked(trials).number, asked(trials).number):
        trial = trial_of(trials.study, number)
        trial.set_user_attr("owner", {**GONE, "beat": 0.0, "sweeper": GONE})
        trial.set_user_attr("run_dir", str(folder / str(number)))
    (folder / "0").mkdir()
    (folder / "0" / "result.json").write_text(json.dumps(FINISHED))
    later = open_trials(storage, 2)
    Ends(later, [Objective()], {}).adopt()
    assert [trial.state for trial in later.all()] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert later.all()[0].values == [0.5]


def test_an_orphan_is_a_trial_without_its_sweeper() -> None:
    me = identity()
    assert is_orphan({**me, "beat": 0.0, "sweeper": GONE})
    assert not is_orphan(new_owner(me))
    assert not is_orphan({**GONE, "beat": 0.0, "sweeper": GONE})
    assert not is_orphan({**me, "host": "elsewhere", "sweeper": GONE})
    assert not is_orphan(None)


def test_a_folder_with_runs_of_another_search_is_refused(tmp_path: Path) -> None:
    parent = declare_parent(tmp_path, "first", "study", "a1")
    refuse_runs_of_another(tmp_path, "b2")  # nothing has run there yet
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "config.yaml").write_text("seed: 1\n")
    refuse_runs_of_another(tmp_path, parent.run_uid)
    with pytest.raises(RunDirectoryError, match="runs of another study, first"):
        refuse_runs_of_another(tmp_path, "b2")


def test_failures_in_a_row_are_those_that_are_not_repeated(storage: str) -> None:
    """A search whose every process crashes must end; one that is interrupted must not."""
    trials = open_trials(storage, 4)
    search: Any = SimpleNamespace(trials=trials)

    def after(before: int, reason: str | None) -> int:
        number = asked(trials).number
        ended = trials.complete(number, [1.0]) if reason is None else trials.fail(number, reason)
        return Search._failures(search, before, ended)

    assert after(2, "killed") == 2  # it is to be run again
    assert after(2, "killed") == 3  # that was its second time
    assert after(3, "interrupted") == 3
    assert after(3, "exception") == 4
    assert after(4, None) == 0
