"""What a job can say to its trial, and hear from it."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, Trial, TrialState

from bit_axon.errors import StorageError
from bit_axon.sweep.studies import lease
from bit_axon.sweep.studies.counting import MESSAGE, OWNER, REASON
from bit_axon.sweep.studies.stops import listening
from bit_axon.sweep.studies.storage import Patience
from bit_axon.sweep.thermal.heat import HeatBudget, parse_budget
from bit_axon.sweep.thermal.heat_pruner import HeatPruner
from bit_axon.sweep.thermal.heat_rules import constraint

REPORT_SECONDS: Final = 0.5  # how long a report is tried; training waits for it
QUIET_SECONDS: Final = 20.0  # after one that failed, reports are only kept for so long
TELL_SECONDS: Final = 300.0
_MESSAGE_CHARACTERS: Final = 1000
_INTERRUPTED: Final = "interrupted"  # the reason of a run that was told to stop


class TrialHandle:
    """One trial, as its job sees it. An unreachable storage never stops the training.

    Attributes:
        number: the trial's number.
        taken: whether the trial was given to someone else; nothing is told any more then.
    """

    def __init__(self, trial: Trial, settings: Mapping[str, Any], patience: Patience, beat_seconds: float):
        self.number = trial.number
        self.taken = False
        self._trial, self._study, self._settings = trial, trial.study, settings
        self._patience = patience
        self._unsent: deque[Callable[[], None]] = deque()
        self._steps: dict[int, float] = {}
        self._not_before, self._is_away = -math.inf, False
        self._verdict: str | None = None
        self._owner: dict[str, Any] = trial.user_attrs[OWNER]
        self._beat_seconds, self._beating = beat_seconds, threading.Lock()
        self._heartbeat = lease.Heartbeat(self.beat, beat_seconds)

    @property
    def params(self) -> dict[str, Any]:
        """What the sampler has drawn."""
        return dict(self._trial.params)

    @property
    def pruner(self) -> BasePruner:
        """Decides whether to stop."""
        return self._study.pruner

    @property
    def objectives(self) -> list[dict[str, str]]:
        """Metric and direction of each."""
        return list(self._settings["objectives"])

    @property
    def constraints(self) -> dict[str, float]:
        """The largest values that figures of the result may have."""
        return dict(self._settings.get("constraints") or {})

    @property
    def heat_budget(self) -> HeatBudget | None:
        """What the trial's heat may cost, where the study limits it."""
        given = self._settings.get("heat_budget")
        return None if given is None else parse_budget(given)

    def report(self, step: int, value: float) -> bool:
        """Keeps an intermediate value; True: stop, the trial is to be pruned or is no longer this process's.

        A value that is not finite is no value, and ends the trial. With the storage out of reach the answer
        is False, and the value is sent with a later call.
        """
        if self.taken:
            return True
        if len(self._settings["objectives"]) != 1:
            return False
        if not math.isfinite(value):
            self._verdict = "nan"
            return True
        if step not in self._steps:
            self._steps[step] = value
            self._unsent.append(lambda: self._trial.report(value, step))
        return bool(self._quickly(self._should_prune))

    def note(self, name: str, value: Any) -> None:
        """Keeps a fact with the trial."""
        self._unsent.append(lambda: self._trial.set_user_attr(name, value))
        self._quickly(lambda: False)

    def beat(self) -> None:
        """A sign of life, at most every half minute however often it is called; never waits for another."""
        if not self._beating.acquire(blocking=False):
            return
        try:
            self._beat_if_due(time.time())
        finally:
            self._beating.release()

    def complete(self, values: Sequence[float], constraints: Mapping[str, float] | None = None) -> bool:
        """Tells the objectives of a trial that ran to its end.

        Args:
            values: one for each objective; one that is not finite makes the trial end as `nan`.
            constraints: by name; at most 0 where the constraint is kept.

        Returns:
            Whether the study knows; False: given to someone else, or not reachable for five minutes.
        """
        if not all(math.isfinite(value) for value in values):
            return self.pruned("nan")
        for name, value in (constraints or {}).items():
            self._unsent.append(lambda n=name, v=value: self._set_constraint(n, v))  # type: ignore[misc]
        self._unsent.append(self._constrain_heat)
        return self._end(TrialState.COMPLETE, list(values), {})

    def pruned(self, reason: str = "pruned") -> bool:
        """Tells that the trial was not worth going on with; without one finite value it has failed instead.

        Args:
            reason: why; `pruned` alone is made more exact: by which pruner.
        """
        if reason == "pruned":
            reason = self._verdict or "pruned"
        if reason == "nan" and not self._steps:
            return self.fail("nan", "the objective is not a finite number")
        self._unsent.append(self._constrain_heat)
        return self._end(TrialState.PRUNED, None, {REASON: reason})

    def fail(self, reason: str, message: str = "") -> bool:
        """Tells that the trial has no value, and why; whether it is run again follows from the reason."""
        return self._end(TrialState.FAIL, None, {REASON: reason, MESSAGE: message[:_MESSAGE_CHARACTERS]})

    def close(self) -> None:
        """Ends the signs of life without telling anything."""
        self._heartbeat.stop()

    def _beat_if_due(self, now: float) -> None:
        if self.taken or now - self._owner["beat"] < self._beat_seconds / 2:
            return
        owner = {**self._owner, "beat": now}
        try:
            self._patience.up_to(0.0)(lambda: self._trial.set_user_attr(OWNER, owner))
        except UpdateFinishedTrialError:
            self._give_up()
        except StorageError:
            return  # the next beat is soon enough
        self._owner = owner

    def _should_prune(self) -> bool:
        if not self._trial.should_prune():
            return False
        self._verdict = f"pruned:{self._asked()}"
        return True

    def _asked(self) -> str:
        """By what the pruner decided: the name of the one that judges quality, or the heat budget."""
        spec = self._settings["pruner"]
        if not isinstance(self.pruner, HeatPruner):
            return str(spec["name"])
        return self.pruner.reason or str(spec["wrapped"]["name"])

    def _quickly(self, question: Callable[[], bool]) -> bool:
        """The answer after what is unsent was sent; False when the storage cannot be reached just now."""
        now = self._patience.monotonic()
        if self.taken or now < self._not_before:
            return self.taken
        try:
            answer = self._patience.up_to(REPORT_SECONDS)(lambda: self._sent() and question())
        except UpdateFinishedTrialError:
            self._give_up()
            return True
        except StorageError as error:
            self._not_before = self._patience.monotonic() + QUIET_SECONDS
            if not self._is_away:
                self._is_away = True
                trouble = self._patience.trouble(error)
                self._patience.say(f"{trouble}. Training goes on; nothing is pruned until it answers.")
            return False
        if self._is_away:
            self._is_away = False
            self._patience.say("study storage: it answers again")
        return answer

    def _sent(self) -> bool:
        while self._unsent:
            self._unsent[0]()
            self._unsent.popleft()
        return True

    def _set_constraint(self, name: str, value: float) -> None:
        if name not in self._trial.constraints:
            self._trial.set_constraint(name, math.inf if math.isnan(value) else value)

    def _constrain_heat(self) -> None:
        """For the sampler: over the budget or not; weather counts as 0."""
        if (budget := self.heat_budget) is not None:
            trials = self._study.get_trials(deepcopy=False)
            for name, value in constraint(trials[self.number], trials, budget).items():
                self._set_constraint(name, value)

    def _end(self, state: TrialState, values: list[float] | None, facts: Mapping[str, str]) -> bool:
        self._heartbeat.stop()
        try:
            return not self.taken and self._patiently(lambda: self._tell(state, values, facts), facts)
        except UpdateFinishedTrialError:
            self._give_up()
        except StorageError as error:
            self._leave_untold(self._patience.trouble(error))
        except KeyboardInterrupt:
            self._leave_untold("study storage: it did not answer until the stop")
        return False

    def _patiently(self, tell: Callable[[], bool], facts: Mapping[str, str]) -> bool:
        """For minutes, or until a stop; one that ended the run was asked for already, so it is tried once."""
        is_stopped = facts.get(REASON) == _INTERRUPTED
        with listening() as stop:
            patience = replace(self._patience, seconds=TELL_SECONDS, stop=lambda: is_stopped or stop())
            return patience(tell)

    def _leave_untold(self, trouble: str) -> None:
        """The sweeper, or its next start, finds the end on the disk."""
        told = f"The end of trial {self.number} is not told; it is in the run's result.json."
        self._patience.say(f"{trouble}. {told}")

    def _tell(self, state: TrialState, values: list[float] | None, facts: Mapping[str, str]) -> bool:
        """Sends everything, the state last; right again where an earlier call got through unanswered."""
        told = self._study.get_trials(deepcopy=False)[self.number]
        if not told.state.is_finished():
            self._sent()
            for name, value in facts.items():
                if value:
                    self._trial.set_user_attr(name, value)
            told = self._study.tell(self._trial, values, state, skip_if_finished=True)
        if told.state is not state or not self._is_mine(told, facts):
            self._give_up()
        return not self.taken

    def _is_mine(self, trial: FrozenTrial, facts: Mapping[str, str]) -> bool:
        told = trial.user_attrs
        return lease.is_same(told[OWNER], self._owner) and told.get(REASON) == facts.get(REASON)

    def _give_up(self) -> None:
        if not self.taken:
            self.taken = True
            self._patience.say(f"trial {self.number} was given to someone else: this run's end is not told")
