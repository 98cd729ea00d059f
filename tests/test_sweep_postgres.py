"""Studies in a real PostgreSQL: several workers, kills, and a server that goes away for a while."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState
from postgres_server import PASSWORD, Server, running_server
from study_cases import Workers, check_account
from study_worker import STUDY, Address, open_trials, space
from waiting import AT_ONCE_SECONDS, LONGEST_SECONDS

from bit_axon.errors import StorageError
from bit_axon.sweep.studies.attach import attach
from bit_axon.sweep.studies.locks import study_lock
from bit_axon.sweep.studies.storage import STORAGE_VARIABLE, Patience


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


@pytest.fixture
def url(server: Server) -> str:
    return server.new_database()


@pytest.fixture
def workers(url: str, tmp_path: Path) -> Iterator[Workers]:
    found = Workers(url, tmp_path)
    yield found
    found.end()


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_that_start_at_once_share_one_new_study(workers: Workers, count: int) -> None:
    n_trials = count + 2
    started = [workers.start(n_trials) for _ in range(count)]
    said = "".join(workers.finish(each) for each in started)
    check_account(workers.trials(), n_trials)
    assert "Traceback" not in said and PASSWORD not in said


@pytest.mark.slow
def test_a_killed_trial_is_run_again(workers: Workers) -> None:
    workers.hold()
    sweeper = workers.start(2)
    workers.child(0).kill()
    workers.release()
    workers.finish(sweeper)
    check_account(workers.trials(), 2, ("killed",))


@pytest.mark.slow
@pytest.mark.parametrize("with_trial", [False, True])
def test_after_a_killed_sweeper_the_same_command_finishes_the_study(
    workers: Workers, with_trial: bool
) -> None:
    workers.hold()
    sweeper = workers.start(2)
    child = workers.child(0)
    sweeper.kill()
    sweeper.wait()
    if with_trial:
        child.kill()
    workers.release()
    workers.finish(sweeper, code=-signal.SIGKILL)
    workers.finish(workers.start(2))
    check_account(workers.trials(), 2, ("lost",) if with_trial else ())


def test_one_process_holds_the_lock_and_gives_it_back_when_killed(url: str) -> None:
    code = (
        "import sys, time\n"
        "from bit_axon.sweep.studies.locks import study_lock\n"
        "with study_lock(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match="another process"), study_lock(url, wait_seconds=0.3):
            raise AssertionError("entered twice")
    finally:
        holder.kill()
        holder.communicate()
    with study_lock(url, wait_seconds=LONGEST_SECONDS):
        pass


def test_a_stop_is_heeded_while_another_worker_has_the_lock(url: str) -> None:
    started = time.monotonic()
    with study_lock(url), pytest.raises(KeyboardInterrupt), study_lock(url, stop=lambda: True):
        raise AssertionError("entered twice")
    assert time.monotonic() - started < AT_ONCE_SECONDS  # a lock is waited for for three minutes


def test_a_lock_whose_connection_is_cut_leaves_the_work_standing(server: Server, url: str) -> None:
    with study_lock(url):
        cut = server.run_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_try_advisory%' "
            "AND pid <> pg_backend_pid()"
        )
    assert cut == 1
    with study_lock(url, wait_seconds=LONGEST_SECONDS):
        pass


@pytest.mark.slow
def test_a_server_that_goes_away_costs_nothing_but_time(server: Server, url: str, tmp_path: Path) -> None:
    said: list[str] = []
    patience = Patience(url, say=said.append)
    trials = open_trials(url, 2, patience=patience)
    asked = trials.ask(space())
    assert asked is not None
    address = Address(STUDY, asked.number, str(tmp_path))
    handle = attach(address, {STORAGE_VARIABLE: url}, patience=patience, beat_seconds=0.2)
    assert not handle.report(1, 3.0)
    server.stop()
    started = time.monotonic()
    assert not handle.report(2, 2.0)
    assert time.monotonic() - started < AT_ONCE_SECONDS  # an end is tried for five minutes
    assert "Training goes on" in said[0]
    back = threading.Timer(3.0, server.start)
    back.start()
    assert handle.complete([1.0])
    back.join()
    trial = trials.get(asked.number)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 1.0)
    assert trial.intermediate_values == {1: 3.0, 2: 2.0}
    assert not any(PASSWORD in line for line in said)


@pytest.mark.slow
def test_a_sweeper_waits_for_a_server_that_is_away(server: Server, url: str) -> None:
    trials = open_trials(url, 2)
    server.stop()
    back = threading.Timer(2.0, server.start)
    back.start()
    asked = trials.ask(space())
    back.join()
    assert asked is not None and asked.number == 0
    assert trials.complete(0, [1.0]).state is TrialState.COMPLETE


@pytest.mark.slow
def test_workers_go_on_when_the_server_was_away(server: Server, workers: Workers) -> None:
    workers.hold()
    started = [workers.start(4) for _ in range(2)]
    workers.child(0)
    server.stop()
    workers.release()  # the trial reports, and ends, while there is no server
    time.sleep(2.0)
    server.start()
    for each in started:
        workers.finish(each)
    check_account(workers.trials(), 4, some_lost=True)


def test_a_wrong_password_is_said_at_once_and_not_shown(server: Server) -> None:
    started = time.monotonic()
    with pytest.raises(StorageError, match="authentication failed") as caught:
        open_trials(server.url("postgres", password="wrong-word"), 1)
    assert "wrong-word" not in str(caught.value) and "***@127.0.0.1" in str(caught.value)
    assert time.monotonic() - started < AT_ONCE_SECONDS  # an outage would be waited out for five minutes


def test_the_driver_is_found_for_a_plain_address(url: str) -> None:
    trials = open_trials(url.replace("+psycopg", ""), 1)
    assert trials.ask(space()) is not None
