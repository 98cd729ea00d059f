"""The trials of a study: exactly as many as wanted are begun, and the dead are found and run again."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from bit_axon.errors import ConfigError, StorageError, problem
from bit_axon.sweep.studies import lease
from bit_axon.sweep.studies.attach import completed, trial_of
from bit_axon.sweep.studies.counting import MESSAGE, OWNER, REASON, RETRY_OF, SWEEPER_BEAT, Tally, tally
from bit_axon.sweep.studies.locks import study_lock
from bit_axon.sweep.studies.storage import Patience, absolute_storage

Alive = Callable[[Mapping[str, Any]], bool]
_MESSAGE_CHARACTERS: Final = 1000
_STORAGE_ERRORS: Final = (SQLAlchemyError, StorageInternalError, UpdateFinishedTrialError)


class Trials:
    """One worker's view of a study's trials.

    Args:
        study: from `open_study`.
        storage: its URL.
        n_trials: how many trials are to count in the end, those of all workers and earlier calls included;
            for a sampler that visits every point no more than there are points.
        retries: how often a trial that was killed or lost is run again.
        patience: how long an unreachable storage is waited for.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: str,
        n_trials: int,
        retries: int = 1,
        patience: Patience | None = None,
    ):
        self._study, self._storage = study, absolute_storage(storage)
        self._n_trials, self._retries = n_trials, retries
        self._patience = patience or Patience(self._storage)
        self._mine: dict[int, lease.Heartbeat] = {}
        self._me = lease.identity()
        # What a sampler does at a trial's end is for `Study.optimize`: some stop its loop, and there is none.
        self._quiet = copy.copy(study)
        self._quiet.sampler = RandomSampler()

    @property
    def study(self) -> optuna.Study:
        """Optuna's study."""
        return self._study

    def all(self) -> list[FrozenTrial]:
        """Every trial, by number."""
        return self._patience(self._read)

    def _read(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def get(self, number: int) -> FrozenTrial:
        """One trial as it is now; one that has ended is no longer waited for."""
        found = self.all()[number]
        if found.state.is_finished():
            self._release(number)
        return found

    def tally(self) -> Tally:
        """How far the study is."""
        return tally(self.all(), self._retries)

    def counted(self) -> int:
        """Trials that have ended for good; the sweep is over when they are `n_trials`."""
        return self.tally().counted

    def running(self) -> tuple[FrozenTrial, ...]:
        """Trials that a process works on, of any worker."""
        return self.tally().running

    def is_done(self) -> bool:
        """Whether nothing is left to do, for this worker or another."""
        return self.counted() >= self._n_trials

    def ask(self, space: Mapping[str, BaseDistribution]) -> FrozenTrial | None:
        """The next trial to run, first of all one to repeat; None: no place is free (others may be running).

        Raises:
            ConfigError: the sampler cannot suggest from this space.
            StorageError: the storage could not be reached all the time.
        """
        while True:
            try:
                number = self._patience(lambda: self._ask(space))
                return None if number is None else self.all()[number]
            except UpdateFinishedTrialError:
                continue  # the lock's connection was cut, and another worker took the trial for a dead one

    def reap(self, alive: Alive = lease.is_alive) -> list[int]:
        """Ends the trials whose process is gone, and queues them again; returns their numbers.

        A trial whose worker died while it asked is left to the next `ask`, which knows the space.
        """

        def locked() -> list[int]:
            with self._locked():
                dead = self._bury(alive)
                self._requeue()
                return dead

        return self._patience(locked)

    def retry(self, number: int) -> None:
        """Queues a trial's parameters again, unless they are already."""

        def locked() -> None:
            with self._locked():
                trials = self._read()
                if all(trial.user_attrs.get(RETRY_OF) != number for trial in trials):
                    self._study.enqueue_trial(trials[number].params, user_attrs={RETRY_OF: number})

        self._patience(locked)

    def note(self, number: int, facts: Mapping[str, Any]) -> None:
        """Keeps facts with a trial that has not ended."""

        def noted() -> None:
            trial = trial_of(self._quiet, number)
            with suppress(UpdateFinishedTrialError):
                for name, value in facts.items():
                    trial.set_user_attr(name, value)

        self._patience(noted)

    def fail(self, number: int, reason: str, message: str = "") -> FrozenTrial:
        """Tells FAIL for a trial of this worker whose process has gone, unless it told its end itself."""
        return self._end(
            number, TrialState.FAIL, None, {REASON: reason, MESSAGE: message[:_MESSAGE_CHARACTERS]}
        )

    def prune(self, number: int, reason: str) -> FrozenTrial:
        """Tells PRUNED for a trial whose process could not reach the storage itself."""
        return self._end(number, TrialState.PRUNED, None, {REASON: reason})

    def dead(self) -> list[FrozenTrial]:
        """Trials that nobody works on any more and that have no end yet."""
        running = [trial for trial in self.all() if trial.state is TrialState.RUNNING]
        return [trial for trial in running if not self._is_worked_on(trial, lease.is_alive)]

    def orphans(self) -> list[FrozenTrial]:
        """Trials that train on this machine although the sweep that began them is gone."""
        return [trial for trial in self.running() if lease.is_orphan(trial.user_attrs.get(OWNER))]

    def complete(
        self, number: int, values: Sequence[float], constraints: Mapping[str, float] | None = None
    ) -> FrozenTrial:
        """Tells the values of a process that ended well but could not reach the storage itself."""
        if not all(math.isfinite(value) for value in values):
            return self.fail(number, "nan", f"the objective is {list(values)}")
        return self._end(number, TrialState.COMPLETE, values, {}, constraints)

    def _end(
        self,
        number: int,
        state: TrialState,
        values: Sequence[float] | None,
        facts: Mapping[str, str],
        constraints: Mapping[str, float] | None = None,
    ) -> FrozenTrial:
        def told() -> FrozenTrial:
            self._constrain(number, constraints or {})
            self._tell(number, state, values, facts)
            return self._read()[number]

        ended = self._patience(told)
        self._release(number)
        return ended

    def _constrain(self, number: int, constraints: Mapping[str, float]) -> None:
        known = self._read()[number]
        if known.state.is_finished():
            return
        with suppress(UpdateFinishedTrialError):
            for name, value in constraints.items():
                if name not in known.constraints:
                    trial_of(self._quiet, number).set_constraint(name, value)

    def _locked(self) -> AbstractContextManager[None]:
        return study_lock(self._storage, stop=self._patience.stop)

    def _release(self, number: int) -> None:
        heartbeat = self._mine.pop(number, None)
        if heartbeat is not None:
            heartbeat.stop(wait_seconds=0.0)

    def _tell(
        self, number: int, state: TrialState, values: Sequence[float] | None, facts: Mapping[str, str]
    ) -> None:
        if self._read()[number].state.is_finished():
            return
        with suppress(UpdateFinishedTrialError):  # it told its end just now
            for name, value in facts.items():
                if value:
                    trial_of(self._quiet, number).set_user_attr(name, value)
            self._quiet.tell(number, values, state, skip_if_finished=True)

    def _ask(self, space: Mapping[str, BaseDistribution]) -> int | None:
        with self._locked():
            self._bury(lease.is_alive, space)
            if not self._requeue().has_place(self._n_trials):
                return None
            try:
                trial = self._study.ask(dict(space))
                trial.set_user_attr(OWNER, lease.new_owner(self._me))
            except _STORAGE_ERRORS:
                raise
            except Exception as error:
                self._bury(lease.is_alive, space)
                raise _cannot_suggest(self._study, error) from error
            self._mine[trial.number] = lease.Heartbeat(lambda: self._beat(trial.number))
            return trial.number

    def _beat(self, number: int) -> None:
        """Shows other machines that this worker waits for the trial, also before its job begins."""
        with suppress(StorageError, UpdateFinishedTrialError):
            self._patience.up_to(0.0)(
                lambda: trial_of(self._quiet, number).set_user_attr(SWEEPER_BEAT, time.time())
            )

    def _bury(self, alive: Alive, space: Mapping[str, BaseDistribution] | None = None) -> list[int]:
        """Tells FAIL for each trial without a living process. Needs the lock: asking looks the same."""
        dead = [
            trial
            for trial in self._read()
            if trial.state is TrialState.RUNNING and not self._is_worked_on(trial, alive)
        ]
        buried = [trial for trial in dead if OWNER in trial.user_attrs or space is not None]
        for trial in buried:
            if OWNER not in trial.user_attrs:
                self._draw_the_rest(trial.number, space or {})
            facts = {REASON: "lost", MESSAGE: "its process is gone and has told no end"}
            self._tell(trial.number, TrialState.FAIL, None, facts)
        return [trial.number for trial in buried]

    def _draw_the_rest(self, number: int, space: Mapping[str, BaseDistribution]) -> None:
        """Completes a trial whose worker died while it asked.

        `grid` cannot run a part of a point again, and `brute_force` fails on a study that holds one.
        """
        try:
            completed(self._study, number, space)
        except _STORAGE_ERRORS:
            raise
        except Exception:  # the sampler's mistake was, or will be, said where it is asked
            completed(self._quiet, number, space)

    def _is_worked_on(self, trial: FrozenTrial, alive: Alive) -> bool:
        owner = trial.user_attrs.get(OWNER)
        if owner is None:
            return False
        owner = {**owner, "beat": max(owner["beat"], trial.user_attrs.get(SWEEPER_BEAT, 0.0))}
        if lease.is_same(owner, self._me):
            return trial.number in self._mine
        if lease.is_same(owner["sweeper"], self._me) and trial.number not in self._mine:
            return alive({**owner, "sweeper": owner})
        return alive(owner)

    def _requeue(self) -> Tally:
        """Queues what is to be run again; found from the trials alone: a killed worker leaves no gap."""
        found = tally(self._read(), self._retries)
        for trial in found.to_retry:
            self._study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})
        return tally(self._read(), self._retries) if found.to_retry else found


def _cannot_suggest(study: optuna.Study, error: Exception) -> ConfigError:
    name = type(study.sampler).__name__
    return ConfigError(
        problem(
            f"{name} to suggest a trial",
            str(error) or type(error).__name__,
            "Choose another hydra.sweeper.sampler, or change the space.",
        ),
        keys=("hydra.sweeper.sampler",),
    )
