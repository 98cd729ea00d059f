"""Studies: Optuna's own sequence, exactly n_trials, the dead found and retried, other searches refused."""

import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.exceptions import StorageInternalError
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import (
    BaseSampler,
    GridSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import OperationalError
from study_cases import quick_folder
from study_worker import SEED, STUDY, Address, curve, open_trials, settings, space
from waiting import AT_ONCE_SECONDS, wait_for

from bit_axon.errors import ConfigError, StorageError
from bit_axon.stopping import StopRequest
from bit_axon.sweep import sweeper
from bit_axon.sweep.config.samplers import build_sampler
from bit_axon.sweep.config.settings import read_settings
from bit_axon.sweep.config.space import parse_space
from bit_axon.sweep.reporting.finding import PARENT_UID
from bit_axon.sweep.studies import lease
from bit_axon.sweep.studies.attach import attach, trial_of
from bit_axon.sweep.studies.counting import MOST_UNCHARGED, tally
from bit_axon.sweep.studies.locks import study_lock
from bit_axon.sweep.studies.storage import Patience, absolute_storage, storage_url
from bit_axon.sweep.studies.study import existing_study, open_study
from bit_axon.sweep.studies.trials import Trials

NOW = 1_000_000.0
HERE = {**lease.identity(), "beat": NOW}
NO_PROCESS = {"host": HERE["host"], "pid": 2**22 - 3, "started": 1.0, "beat": NOW}
FAR = {"host": "elsewhere", "pid": 7, "started": 1.0, "beat": NOW}
STEPS = 6


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as found:
        yield found


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without a study: its tables take longer than most tests here."""
    path = tmp_path_factory.mktemp("empty") / "study.db"
    optuna.storages.RDBStorage(f"sqlite:///{path}").remove_session()
    return path


@pytest.fixture
def storage(folder: Path, empty: Path) -> str:
    return f"sqlite:///{shutil.copy(empty, folder / 'study.db')}"


def opened(storage: str, sampler: BaseSampler | None = None, **changes: Any) -> optuna.Study:
    return open_study(
        STUDY, storage, settings(**changes), lambda sessions: sampler or RandomSampler(), NopPruner()
    )


def owned(trials: Trials, number: int, **owner: Any) -> None:
    """Says who works on a trial."""
    trial_of(trials.study, number).set_user_attr("owner", owner)


# --- Optuna's own sequence --------------------------------------------------------------------------------

MakeSampler = Callable[[], BaseSampler]
EQUAL: dict[str, tuple[MakeSampler, dict[str, Any]]] = {
    "tpe, median": (
        lambda: TPESampler(seed=SEED, n_startup_trials=5),
        {"name": "median", "n_startup_trials": 3},
    ),
    "tpe, hyperband": (
        lambda: TPESampler(seed=SEED, n_startup_trials=4),
        {"name": "hyperband", "max_resource": STEPS, "reduction_factor": 2},
    ),
    "random, halving": (lambda: RandomSampler(seed=SEED), {"name": "successive_halving"}),
    "nsgaii, patient": (
        lambda: NSGAIISampler(seed=SEED, population_size=6),
        {"name": "percentile", "n_startup_trials": 2},
    ),
}


def as_optuna_does(sampler: BaseSampler, pruner: BasePruner, n_trials: int) -> list[FrozenTrial]:
    """Optuna's own loop, in memory."""

    def objective(trial: optuna.Trial) -> float:
        rank = trial.suggest_int("adapter.rank", 1, 64, log=True)
        rate = trial.suggest_float("method.learning_rate", 1e-5, 1e-2, log=True)
        name = trial.suggest_categorical("adapter.name", ["lora", "dora"])
        params = {"adapter.rank": rank, "method.learning_rate": rate, "adapter.name": name}
        for step in range(1, STEPS + 1):
            trial.report(curve(params, step), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return curve(params, STEPS)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name=STUDY, sampler=sampler, pruner=pruner)
    study.optimize(objective, n_trials=n_trials)
    return study.trials


def test_a_grid_is_walked_as_by_optuna_and_telling_needs_no_loop(storage: str) -> None:
    grid = {"x": [0.0, 1.0, 2.0]}
    study = opened(storage, GridSampler(grid, seed=1))
    trials = Trials(study, storage, 3)
    points = []
    while (asked := trials.ask({"x": FloatDistribution(0.0, 2.0)})) is not None:
        points.append(asked.params["x"])
        trials.complete(asked.number, [1.0])
    own = optuna.create_study(sampler=GridSampler(grid, seed=1))
    own.optimize(lambda trial: trial.suggest_float("x", 0.0, 2.0))
    assert points == [trial.params["x"] for trial in own.trials]


# --- made once, refused to another search -----------------------------------------------------------------


def test_the_same_search_opens_the_study_again_with_another_seed(storage: str) -> None:
    seen: list[int] = []

    def make(sessions: int) -> BaseSampler:
        seen.append(sessions)
        return RandomSampler()

    for _ in range(3):
        study = open_study(STUDY, storage, settings(), make, NopPruner())
    assert seen == [0, 1, 2]
    assert study.user_attrs["bit_axon"] == settings()


def test_another_search_is_refused_with_the_keys_that_differ(storage: str) -> None:
    opened(storage)
    other = settings()["fingerprint"] | {"fixed": {"seed": "1", "method": "orpo"}}
    other["space"] = {**other["space"], "adapter.rank": "IntDistribution(1, 8)"}
    with pytest.raises(ConfigError) as caught:
        opened(storage, fingerprint=other)
    text = str(caught.value)
    assert "method: nothing before, orpo now" in text
    assert "seed: '0' before, '1' now" in text
    assert "rank: " in text
    assert "learning_rate" not in text
    assert "hydra.sweeper.study_name" in text
    other = settings()["fingerprint"] | {"objectives": {"eval_loss_best": "maximize"}}
    with pytest.raises(ConfigError, match=r"objective: .* before, maximize eval_loss_best now"):
        opened(storage, fingerprint=other)


def of_adapters(rank: int, scale: float) -> dict[str, Any]:
    """The fingerprint of a search over the group `adapter` with one of its keys fixed."""
    found = parse_space({}, ["adapter=lora,dora", f"++adapter.rank={rank}"])
    job = {"seed": 0, "adapter": {"name": "dora", "rank": rank, "scale": scale}}
    return read_settings({}).settings.fingerprint(found, job)


def test_an_override_below_a_searched_group_is_a_part_of_the_search(storage: str) -> None:
    opened(storage, fingerprint=of_adapters(4, 10.0))
    opened(storage, fingerprint=of_adapters(4, 20.0))  # the last option's own value
    with pytest.raises(ConfigError, match=r"adapter\.rank: 4 before, 64 now"):
        opened(storage, fingerprint=of_adapters(64, 10.0))


def test_another_pruner_is_followed_by_the_jobs(storage: str, folder: Path) -> None:
    opened(storage)
    trials = Trials(opened(storage, pruner={"name": "nop"}), storage, 1)
    asked = trials.ask(space())
    assert asked is not None
    assert trials.study.user_attrs["bit_axon"]["pruner"] == {"name": "nop"}
    handle = attach(Address(STUDY, asked.number, str(folder)), {})
    assert isinstance(handle.pruner, NopPruner)
    handle.close()


def test_a_study_of_another_program_is_left_alone(storage: str) -> None:
    foreign = optuna.create_study(study_name=STUDY, storage=storage)
    foreign.add_trial(create_trial(value=1.0))
    with pytest.raises(ConfigError, match="another program"):
        opened(storage)


@pytest.mark.parametrize("directions", [["minimize"], ["maximize", "minimize"]])
def test_a_study_that_was_made_but_not_described_is_taken_over(storage: str, directions: list[str]) -> None:
    optuna.create_study(study_name=STUDY, storage=storage, directions=directions)
    assert opened(storage).directions == [optuna.study.StudyDirection.MINIMIZE]


def test_a_study_that_is_not_there_is_named_and_no_file_is_made(folder: Path) -> None:
    storage = f"sqlite:///{folder / 'study.db'}"
    with pytest.raises(ConfigError, match="'absent'"):
        existing_study("absent", storage, RandomSampler(), NopPruner())
    assert not list(folder.iterdir())
    opened(storage)
    with pytest.raises(ConfigError, match="'absent'"):
        existing_study("absent", storage, RandomSampler(), NopPruner())


# --- addresses --------------------------------------------------------------------------------------------


def test_addresses_are_absolute_and_none_shows_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage_url(tmp_path, {}) == f"sqlite:///{tmp_path}/study.db"
    assert absolute_storage("sqlite:///x.db") == f"sqlite:///{tmp_path}/x.db"
    url = "postgresql://me:secret@host/db"
    assert storage_url(tmp_path, {"BIT_AXON_STUDY_STORAGE": url}) == "postgresql+psycopg://me:secret@host/db"
    for wrong in ("mysql://me:secret@host/db", "sqlite://", "sqlite:///:memory:", "study.db"):
        with pytest.raises(ConfigError) as caught:
            absolute_storage(wrong)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_a_driver_that_is_not_installed_is_named_with_the_extra(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'bit-axon\[postgres\]'") as caught:
        opened(f"{scheme}://me:secret@host/db")
    assert caught.value.keys == ("hydra.sweeper.storage",)
    assert "secret" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"study\.db"):
        opened(f"sqlite:///{tmp_path / 'file' / 'study.db'}")


def test_a_file_that_is_no_database_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("not a database, but long enough to be read as one " * 40)
    with pytest.raises(StorageError, match="not a database"):
        opened(f"sqlite:///{tmp_path / 'study.db'}")


# --- exactly n_trials -------------------------------------------------------------------------------------


def test_no_more_trials_begin_than_are_wanted_and_more_extend(storage: str) -> None:
    trials = open_trials(storage, 2)
    first, second = trials.ask(space()), trials.ask(space())
    assert first is not None and second is not None
    assert (trials.ask(space()), len(trials.running()), trials.counted()) == (None, 2, 0)
    for trial in (first, second):
        trials.complete(trial.number, [1.0])
    assert trials.is_done() and trials.ask(space()) is None
    more = open_trials(storage, 3)
    assert not more.is_done()
    asked = more.ask(space())
    assert asked is not None and asked.number == 2


def test_a_trial_that_was_put_in_by_hand_takes_one_of_the_places(storage: str) -> None:
    trials = open_trials(storage, 2)
    trials.study.enqueue_trial({"adapter.rank": 7})
    first, second = trials.ask(space()), trials.ask(space())
    assert first is not None and first.params["adapter.rank"] == 7
    assert second is not None and trials.ask(space()) is None


@pytest.mark.parametrize(
    ("reason", "attempts"),
    [("exception", 1), ("nan", 1), ("timeout", 1), ("killed", 2), ("lost", 2), ("storage", 2)],
)
def test_what_is_no_fault_of_the_parameters_is_run_again(storage: str, reason: str, attempts: int) -> None:
    trials = open_trials(storage, 1, retries=1)
    seen = []
    while (asked := trials.ask(space())) is not None:
        seen.append(asked)
        trials.fail(asked.number, reason, "as a test")
    assert [trial.params for trial in seen] == [seen[0].params] * attempts
    assert [trial.user_attrs.get("retry_of") for trial in seen] == [None, 0][:attempts]
    assert trials.counted() == 1
    assert trials.get(0).user_attrs["reason"] == reason


@pytest.mark.parametrize("reason", ["interrupted", "thermal_stop"])
def test_heat_and_the_user_are_not_charged_to_a_trial_but_not_for_ever_either(
    storage: str, reason: str
) -> None:
    trials = open_trials(storage, 1, retries=0)
    attempts = 0
    while attempts < 2 * MOST_UNCHARGED and (asked := trials.ask(space())) is not None:
        attempts += 1
        trials.fail(asked.number, reason)
    assert attempts == MOST_UNCHARGED + 1


@pytest.mark.parametrize(("is_cool", "wanted"), [(True, 2), (False, MOST_UNCHARGED + 1)])
def test_a_second_thermal_stop_counts_if_both_began_cool(storage: str, is_cool: bool, wanted: int) -> None:
    trials = open_trials(storage, 1)
    attempts = 0
    while attempts < 2 * MOST_UNCHARGED and (asked := trials.ask(space())) is not None:
        attempts += 1
        trials.note(asked.number, {"start": {"cool": is_cool}})
        trials.fail(asked.number, "thermal_stop")
    assert attempts == wanted and trials.is_done()


def test_failures_without_a_reason_count(storage: str) -> None:
    trials = open_trials(storage, 1)
    asked = trials.ask(space())
    assert asked is not None
    trials.study.tell(asked.number, state=TrialState.FAIL)
    assert trials.is_done()


def test_a_retry_comes_before_a_new_trial_and_is_queued_once(storage: str) -> None:
    trials = open_trials(storage, 3)
    first = trials.ask(space())
    assert first is not None
    trials.fail(first.number, "killed")
    trials.retry(first.number)
    trials.retry(first.number)
    assert trials.tally().retries == 1
    again = trials.ask(space())
    assert again is not None and again.user_attrs["retry_of"] == 0


def test_an_end_is_told_once(storage: str, folder: Path) -> None:
    trials = open_trials(storage, 1)
    asked = trials.ask(space())
    assert asked is not None
    assert attach(Address(STUDY, asked.number, str(folder)), {}).complete([0.5])
    assert trials.fail(asked.number, "killed").state is TrialState.COMPLETE
    assert "reason" not in trials.get(0).user_attrs
    assert trials.complete(asked.number, [0.7]).value == 0.5


def test_a_value_that_is_not_finite_is_a_failure(storage: str) -> None:
    trials = open_trials(storage, 1)
    asked = trials.ask(space())
    assert asked is not None
    assert trials.complete(asked.number, [float("inf")]).state is TrialState.FAIL
    assert trials.get(0).user_attrs["reason"] == "nan"


def test_facts_are_kept_with_a_trial(storage: str) -> None:
    trials = open_trials(storage, 1)
    asked = trials.ask(space())
    assert asked is not None
    trials.note(asked.number, {"start_temp_c": 31.5, "run_dir": "0"})
    assert trials.get(0).user_attrs.items() >= {"start_temp_c": 31.5, "run_dir": "0"}.items()


def test_a_sampler_that_breaks_leaves_no_trial_running(storage: str) -> None:
    class Broken(RandomSampler):
        def sample_independent(self, *arguments: Any) -> Any:
            raise ValueError("not this space")

    trials = Trials(opened(storage, Broken()), storage, 2)
    with pytest.raises(ConfigError, match="Broken to suggest a trial; got not this space"):
        trials.ask(space())
    assert [trial.state for trial in trials.all()] == [TrialState.FAIL]
    asked = Trials(opened(storage), storage, 1).ask(space())
    assert asked is not None and asked.user_attrs["retry_of"] == 0


# --- the dead ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "alive"),
    [
        ({**HERE, "sweeper": NO_PROCESS}, True),
        ({**NO_PROCESS, "sweeper": HERE}, True),  # the sweeper waits for it, and will tell
        ({**NO_PROCESS, "sweeper": NO_PROCESS}, False),
        ({**HERE, "started": HERE["started"] - 3600, "sweeper": NO_PROCESS}, False),  # its id was reused
        ({**FAR, "beat": NOW - 599, "sweeper": FAR}, True),
        ({**FAR, "beat": NOW - 601, "sweeper": FAR}, False),
    ],
)
def test_who_is_alive(owner: dict[str, Any], alive: bool) -> None:
    assert lease.is_alive(owner, now=NOW) is alive


def test_a_trial_whose_process_is_gone_is_given_to_the_next(storage: str) -> None:
    dead = open_trials(storage, 2)
    first = dead.ask(space())
    assert first is not None
    owned(dead, first.number, **NO_PROCESS, sweeper=NO_PROCESS)
    next_worker = open_trials(storage, 2)
    again = next_worker.ask(space())
    assert again is not None
    assert (again.params, again.user_attrs["retry_of"]) == (first.params, first.number)
    lost = next_worker.get(first.number)
    assert (lost.state, lost.user_attrs["reason"]) == (TrialState.FAIL, "lost")


def test_a_trial_that_lives_is_left_alone(storage: str) -> None:
    one = open_trials(storage, 2)
    first = one.ask(space())
    assert first is not None
    owned(one, first.number, **{**FAR, "beat": 2e12}, sweeper=FAR)
    other = open_trials(storage, 2)
    assert other.reap() == []
    assert other.reap(alive=lambda owner: False) == [first.number]


def test_while_a_sweeper_cools_down_other_machines_see_that_it_lives(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease.Heartbeat.__init__, "__defaults__", (0.05,))
    trials, other = open_trials(storage, 1), open_trials(storage, 1)
    asked = trials.ask(space())
    assert asked is not None
    owned(trials, asked.number, **{**FAR, "sweeper": FAR})  # as another machine sees it, long ago
    wait_for(lambda: "sweeper_beat" in trials.all()[0].user_attrs, "a beat")
    assert other.reap() == []
    trials.fail(asked.number, "killed")
    assert not trials._mine


def test_a_trial_that_another_worker_buries_while_it_is_asked_for_is_asked_for_again(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL can cut the connection that holds the lock, and with it the lock."""
    trials, other = open_trials(storage, 1), open_trials(storage, 1)
    ask, cut = trials.study.ask, []

    def ask_without_lock(space: Any) -> optuna.Trial:
        asked = ask(space)
        if not cut:
            cut.append(asked.number)
            other._bury(lease.is_alive, space)
        return asked

    monkeypatch.setattr(trials.study, "ask", ask_without_lock)
    again = trials.ask(space())
    assert again is not None and again.user_attrs["retry_of"] == cut[0]
    assert len(trials.running()) == 1


POINTS = parse_space({"a": "range(1,4)", "b": "choice(x,y)"}, [])
SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 2, "multivariate": True},
    "grid": {},
    "brute_force": {},
    "qmc": {},
    "nsgaii": {"population_size": 2},
    "random": {},
}


def on_points(storage: str, name: str) -> Trials:
    """A new worker of a study with six points."""
    spec = {"name": name, "seed": SEED, **SAMPLERS[name]}
    sampler = build_sampler(spec, seed_offset=0, space=POINTS)
    return Trials(opened(storage, sampler), storage, 6, retries=0)


def ran(trials: Trials, n_trials: int | None = None) -> list[FrozenTrial]:
    """Trials until there is no place, or as many as wanted; each ends well."""
    ended: list[FrozenTrial] = []
    while len(ended) != n_trials and (asked := trials.ask(POINTS.distributions)) is not None:
        ended.append(trials.complete(asked.number, [1.0]))
    return ended


@pytest.mark.parametrize(("before", "params_drawn"), [(0, 1), (5, 0), (5, 2)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_worker_killed_while_it_asks_leaves_a_trial_that_is_begun_again(
    storage: str, name: str, before: int, params_drawn: int
) -> None:
    dead = on_points(storage, name)
    ran(dead, before)
    half = dead.study.ask(dict(list(POINTS.distributions.items())[:params_drawn]))
    trials = on_points(storage, name)
    ended = ran(trials)
    assert trials.is_done() and len(ended) == 6 - before
    assert half.params.items() <= ended[0].params.items()
    found = [trial for trial in trials.all() if trial.state is TrialState.COMPLETE]
    assert len(found) == 6 and all(trial.params.keys() == POINTS.distributions.keys() for trial in found)
    if name in ("grid", "brute_force"):
        assert len({tuple(trial.params.items()) for trial in found}) == 6


@pytest.mark.parametrize("name", ["grid", "brute_force"])
def test_a_point_that_was_put_in_by_hand_without_all_values_does_not_block_the_study(
    storage: str, name: str
) -> None:
    trials = on_points(storage, name)
    trials.study.enqueue_trial({"a": 2})
    with suppress(ConfigError):  # the grid cannot complete it
        ran(trials)
    ran(on_points(storage, name))
    assert trials.is_done() and trials.counted() == 6


def test_a_worker_killed_between_the_end_and_the_queue_leaves_no_gap(storage: str) -> None:
    trials = open_trials(storage, 1)
    asked = trials.ask(space())
    assert asked is not None
    trial_of(trials.study, 0).set_user_attr("reason", "killed")
    trials.study.tell(0, state=TrialState.FAIL)
    assert tally(trials.all(), 1).to_retry and not trials.is_done()
    assert open_trials(storage, 1).reap() == []
    again = trials.ask(space())
    assert again is not None and again.user_attrs["retry_of"] == 0


# --- a storage that does not answer -----------------------------------------------------------------------


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[str] = []

    def patience(self, seconds: float = 300.0) -> Patience:
        return Patience("sqlite:////x.db", seconds, lambda: self.now, self.sleep, self.said.append)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def outage(text: str = "connection refused") -> Exception:
    error = StorageInternalError("an exception")
    error.__cause__ = OperationalError("SELECT 1", {}, Exception(text))
    return error


def test_an_outage_of_half_a_minute_is_waited_out() -> None:
    time = Time()

    def answer() -> str:
        if time.now < 30.0:
            raise outage()
        return "there"

    assert time.patience()(answer) == "there"
    assert 30.0 <= time.now < 36.0
    assert [line.split(":")[0] for line in time.said] == ["study storage sqlite", "study storage"]
    assert "connection refused" in time.said[0]


def always(error: Exception) -> Callable[[], None]:
    def broken() -> None:
        raise error

    return broken


def test_an_outage_without_end_is_an_error_in_time() -> None:
    time = Time()
    with pytest.raises(StorageError, match="connection refused"):
        time.patience(60.0)(always(outage()))
    assert 60.0 <= time.now < 61.0


def test_a_stop_is_heeded_while_the_storage_is_away() -> None:
    time = Time()
    patience = replace(time.patience(), stop=lambda: time.now >= 20.0)
    with pytest.raises(KeyboardInterrupt):
        patience(always(outage()))
    assert 20.0 <= time.now < 21.0
    with pytest.raises(StorageError):  # a heartbeat never waits, and is not ended by a stop
        patience.up_to(0.0)(always(outage()))
    assert patience(lambda: "told") == "told"


def test_a_stop_is_heeded_while_another_process_has_the_lock(storage: str) -> None:
    began = time.monotonic()
    with study_lock(storage), pytest.raises(KeyboardInterrupt), study_lock(storage, stop=lambda: True):
        raise AssertionError("entered twice")
    assert time.monotonic() - began < AT_ONCE_SECONDS  # a lock is waited for for three minutes
    with study_lock(storage, stop=lambda: True):
        pass


@pytest.mark.slow
def test_a_stop_is_heeded_while_another_program_keeps_the_database(storage: str) -> None:
    stop = StopRequest()
    patience = Patience(storage, say=lambda line: None, stop=stop)
    trials = open_trials(storage, 1, patience=patience)
    with sqlite3.connect(storage.removeprefix("sqlite:///")) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        stop._handle(signal.SIGINT, None)
        with pytest.raises(KeyboardInterrupt):
            trials.ask(space())
        assert time.monotonic() - began < AT_ONCE_SECONDS  # five seconds of SQLite's, not five minutes


def test_a_storage_that_is_away_right_after_the_study_was_opened_is_waited_for(
    folder: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(folder / "study.db", check_same_thread=False)
    monkeypatch.setattr("bit_axon.sweep.studies.storage._LOCKED_SECONDS", 0.1)

    def then_locked(*arguments: Any) -> optuna.Study:
        study = open_study(*arguments)
        other.execute("BEGIN EXCLUSIVE")
        Timer(1.0, other.rollback).start()
        return study

    monkeypatch.setattr(sweeper, "open_study", then_locked)
    read = read_settings({}, study_name=STUDY).settings
    with suppress(ConfigError):  # the job says nothing of model and data
        sweeper._opened(read, POINTS, folder, None, {}, StopRequest())  # type: ignore[arg-type]
    other.close()
    assert PARENT_UID in existing_study(STUDY, storage, RandomSampler(), NopPruner()).user_attrs


@pytest.mark.parametrize(
    "text", ["database or disk is full", 'password authentication failed for user "x"', "no such table: t"]
)
def test_what_waiting_cannot_help_is_an_error_at_once(text: str) -> None:
    time = Time()
    with pytest.raises(StorageError, match=text):
        time.patience()(always(outage(text)))
    assert time.now == 0.0


def test_errors_of_the_program_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        Time().patience()(lambda: 1 / 0)  # type: ignore[arg-type]


def test_a_full_disk_is_said_at_once_and_leaves_a_study_that_goes_on(storage: str) -> None:
    trials = open_trials(storage, 100)
    with trials.study._storage._backend.engine.connect() as connection:  # it may not grow by a page
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="full"):
        while (asked := trials.ask(space())) is not None:
            trials.fail(asked.number, "exception", "x" * 1000)
    n_trials = len(trials.all()) + 2
    later = open_trials(storage, n_trials)
    while (asked := later.ask(space())) is not None:
        later.complete(asked.number, [1.0])
    assert later.counted() == n_trials


def test_one_process_holds_the_lock_at_a_time(storage: str) -> None:
    inside, most = 0, 0

    def enter(_: int) -> None:
        nonlocal inside, most
        with study_lock(absolute_storage(storage)):
            inside += 1
            most = max(most, inside)
            inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(40)))
    assert most == 1
    with (
        study_lock(storage),
        pytest.raises(StorageError, match="another process"),
        study_lock(storage, wait_seconds=0.0),
    ):
        raise AssertionError("entered twice")
