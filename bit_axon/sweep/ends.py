"""The ends that trials could not tell themselves: their process went, or could not reach the storage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydra.core.utils import JobReturn
from optuna.trial import FrozenTrial

from bit_axon.run_directory import RESULT
from bit_axon.sweep.config.settings import Objective
from bit_axon.sweep.job import end_of
from bit_axon.sweep.launching.isolated import IsolatedReturn
from bit_axon.sweep.studies.counting import OWNER, RUN_DIR
from bit_axon.sweep.studies.lease import identity, is_same
from bit_axon.sweep.studies.trials import Trials
from bit_axon.tracking.facts import read_json

_WITH_RESULT: Final = ("interrupted", "timeout", "thermal_stop")  # endings of a run that wrote its result


@dataclass(frozen=True)
class Ends:
    """Tells the study how trials ended.

    Attributes:
        trials: of this worker.
        objectives: of the study.
        constraints: the largest values that figures may have.
    """

    trials: Trials
    objectives: Sequence[Objective]
    constraints: Mapping[str, float]

    def with_an_end(self, number: int, returned: JobReturn) -> FrozenTrial:
        """A trial that was launched, as it told its end; told here where its process could not."""
        trial = self.trials.get(number)
        if trial.state.is_finished():
            return trial
        if not isinstance(returned, IsolatedReturn):
            return self.trials.fail(number, "exception", "the job returned without an end")
        ending, result = returned.ending, returned.result
        if result is not None and ending.reason in (None, *_WITH_RESULT):
            return self._told(number, result, ending.reason)
        if ending.reason is None:
            return self.trials.fail(number, "lost", "its process ended without telling the study")
        never_taken = is_same(trial.user_attrs[OWNER], identity())
        if never_taken and ending.reason == "exception":  # it is no fault of its values
            return self.trials.fail(number, "lost", f"it did not begin: {ending.message}")
        return self.trials.fail(number, ending.reason, ending.message)

    def _told(self, number: int, result: Mapping[str, Any], reason: str | None = None) -> FrozenTrial:
        """The end that a run's result means, told for a process that could not tell it."""
        objectives = [{"metric": objective.metric} for objective in self.objectives]
        end = end_of(result, objectives, self.constraints)
        if end.state == "complete":
            return self.trials.complete(number, end.values, end.constraints)
        if end.state == "pruned":
            return self.trials.prune(number, end.reason)
        return self.trials.fail(number, reason if reason == "timeout" else end.reason, end.message)

    def adopt(self) -> None:
        """Tells the ends of trials whose runs ended when neither they nor their sweep could tell them."""
        for trial in self.trials.dead():
            run_dir = trial.user_attrs.get(RUN_DIR)
            result = read_json(Path(run_dir) / RESULT) if run_dir else None
            if isinstance(result, Mapping):
                self._told(trial.number, result)
