"""Real processes killed for real: the same command again ends with exactly n_trials trials that count."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from optuna.pruners import NopPruner
from optuna.trial import TrialState
from study_cases import Workers, check_account, quick_folder
from study_worker import STUDY, exit_code, settings
from waiting import wait_for

from bit_axon.sweep.config.samplers import build_sampler
from bit_axon.sweep.config.space import parse_space
from bit_axon.sweep.studies.study import open_study
from bit_axon.sweep.studies.trials import Trials

N_TRIALS = 2
POINTS = parse_space({"a": "choice(1,2)", "b": "choice(x,y)"}, [])


@pytest.fixture
def workers() -> Iterator[Workers]:
    with quick_folder() as folder:
        found = Workers(f"sqlite:///{folder / 'study.db'}", folder)
        yield found
        found.end()


def again(workers: Workers, n_trials: int = N_TRIALS) -> None:
    """The same command; it has to end well."""
    workers.finish(workers.start(n_trials))


@pytest.mark.parametrize(
    ("signum", "reason"),
    [
        pytest.param(signal.SIGINT, "interrupted", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "interrupted", marks=pytest.mark.slow),
        (signal.SIGKILL, "killed"),
    ],
)
def test_a_killed_trial_fails_alone_and_is_run_again(
    workers: Workers, signum: signal.Signals, reason: str
) -> None:
    workers.hold()
    sweeper = workers.start(N_TRIALS)
    workers.child(0).send_signal(signum)
    workers.release()
    workers.finish(sweeper)
    check_account(workers.trials(), N_TRIALS, (reason,))


@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_sweep_goes_on_with_the_trial_it_was_at(
    workers: Workers, signum: signal.Signals
) -> None:
    workers.hold()
    sweeper = workers.start(N_TRIALS)
    workers.child(0)
    sweeper.send_signal(signum)
    workers.finish(sweeper, code=130)
    workers.release()
    again(workers)
    check_account(workers.trials(), N_TRIALS, ("interrupted",))


@pytest.mark.slow
def test_the_trial_of_a_killed_sweeper_ends_by_itself_and_is_not_repeated(workers: Workers) -> None:
    workers.hold()
    sweeper = workers.start(N_TRIALS)
    child = workers.child(0)
    sweeper.kill()
    sweeper.wait()
    assert child.is_running()
    workers.release()
    workers.finish(sweeper, code=-signal.SIGKILL)
    again(workers)
    check_account(workers.trials(), N_TRIALS)
    assert workers.trials()[0].state is TrialState.COMPLETE


@pytest.mark.slow
def test_when_sweeper_and_trial_are_killed_the_trial_is_found_and_run_again(workers: Workers) -> None:
    workers.hold()
    sweeper = workers.start(N_TRIALS)
    child = workers.child(0)
    sweeper.kill()
    child.kill()
    workers.finish(sweeper, code=-signal.SIGKILL)
    workers.release()
    wait_for(lambda: not child.is_running(), "the trial to be gone")
    again(workers)
    check_account(workers.trials(), N_TRIALS, ("lost",))


@pytest.mark.slow
def test_a_finished_study_is_left_as_it_is_and_a_larger_number_extends_it(workers: Workers) -> None:
    again(workers)
    before = workers.trials()
    again(workers)
    assert [trial.datetime_complete for trial in workers.trials()] == [t.datetime_complete for t in before]
    again(workers, N_TRIALS + 1)
    check_account(workers.trials(), N_TRIALS + 1)
    assert workers.trials()[0].params == before[0].params


def killed_while_it_asks(storage: str, spec: dict[str, Any], n_trials: int, params_drawn: int) -> None:
    """A worker that SIGKILL ends in the middle of its first suggestion."""
    child = os.fork()
    if child == 0:
        try:
            trials = worker(storage, spec, n_trials)
            store = trials.study._storage.set_trial_param
            left = params_drawn

            def killed(*arguments: Any) -> None:
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                store(*arguments)

            trials.study._storage.set_trial_param = killed  # type: ignore[method-assign]
            trials.ask(POINTS.distributions)
        finally:
            os._exit(1)
    assert exit_code(child) == -signal.SIGKILL


def worker(storage: str, spec: dict[str, Any], n_trials: int) -> Trials:
    """One start of the sweep."""
    study = open_study(
        STUDY,
        storage,
        settings(sampler=spec),
        lambda sessions: build_sampler(spec, seed_offset=sessions, space=POINTS),
        NopPruner(),
    )
    return Trials(study, storage, n_trials)


SLOW_SAMPLERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("brute_force", "qmc", "nsgaii")]


@pytest.mark.parametrize("name", ["tpe", "grid", *SLOW_SAMPLERS])
def test_workers_that_are_killed_while_they_ask_cost_the_study_nothing(name: str, workers: Workers) -> None:
    storage, spec = workers.storage, {"name": name, "seed": 0}
    for params_drawn in (1, 0, 1):
        killed_while_it_asks(storage, spec, 4, params_drawn)
        trials = worker(storage, spec, 4)
        asked = trials.ask(POINTS.distributions)
        assert asked is not None
        trials.complete(asked.number, [1.0])
    asked = trials.ask(POINTS.distributions)
    assert asked is not None and trials.complete(asked.number, [1.0]) and trials.is_done()
    found = [trial for trial in trials.all() if trial.state is TrialState.COMPLETE]
    assert len(found) == trials.counted() == 4
    if name in ("grid", "brute_force"):
        assert len({tuple(trial.params.items()) for trial in found}) == 4


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_workers_that_start_at_once_share_one_new_study(workers: Workers, count: int) -> None:
    n_trials = count + 2
    started = [workers.start(n_trials) for _ in range(count)]
    said = "".join(workers.finish(each) for each in started)
    check_account(workers.trials(), n_trials)
    assert "Traceback" not in said
    sweepers = {trial.user_attrs["owner"]["sweeper"]["pid"] for trial in workers.trials()}
    assert sweepers <= {each.pid for each in started} and os.getpid() not in sweepers
