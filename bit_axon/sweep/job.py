"""A run as a trial of a study: reports at every evaluation, stops when told to, and tells its end."""

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from bit_axon.errors import BitAxonError, NonFiniteLossError, StorageError
from bit_axon.schema import TrialConfig
from bit_axon.sweep.launching.child import DEADLINE, OUT_OF_MEMORY
from bit_axon.sweep.studies.attach import attach
from bit_axon.sweep.studies.counting import RUN_DIR
from bit_axon.sweep.thermal.heat import HeatBudget, HeatWatch
from bit_axon.training.records import EvaluationRecord, StepRecord

_FAILED_AS = {"interrupt": "interrupted", "thermal": "thermal_stop"}
_HEAT = (
    "source",
    "start",
    "max",
    "mean",
    "overhead",
    "degree_seconds_above_pause",
    "stops",
    "seconds",
    "batches_split",
)


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended.

    Attributes:
        state: of the trial.
        reason: why it has no value.
        message: what a person should know of that.
        values: of the objectives, of one that is complete.
        constraints: by how much each figure is over its limit.
    """

    state: Literal["complete", "pruned", "failed"]
    reason: str = ""
    message: str = ""
    values: tuple[float, ...] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)


class Handle(Protocol):
    """The study, as far as one trial sees it; `bit_axon.sweep.studies.handle.TrialHandle` is one."""

    @property
    def objectives(self) -> Sequence[Mapping[str, str]]:
        """Metric and direction of each."""

    @property
    def constraints(self) -> Mapping[str, float]:
        """The largest value that figures of the result may have."""

    @property
    def heat_budget(self) -> HeatBudget | None:
        """What the trial's heat may cost, where the study limits it."""

    def report(self, step: int, value: float) -> bool:
        """An intermediate value; True when the trial is to be pruned."""

    def beat(self) -> None:
        """Shows that the process is alive; cheap to call often."""

    def note(self, name: str, value: Any) -> None:
        """Keeps a fact with the trial."""

    def complete(self, values: Sequence[float], constraints: Mapping[str, float]) -> object:
        """The end of a trial that ran to its end; a constraint is kept where it is at most 0."""

    def pruned(self, reason: str) -> object:
        """The end of a trial that was not worth going on with."""

    def fail(self, reason: str, message: str) -> object:
        """The end of a trial without a value."""


class TrialJob:
    """Carries what a run says to its trial."""

    def __init__(self, handle: Handle):
        self._handle = handle
        self._prune = False
        self._reported = False
        self._heat: HeatWatch | None = None

    def on_prepared(self, trace: Path, pause_temp: float, max_steps: int) -> None:
        """The run is about to begin; its heat is watched where the study limits it."""
        self._handle.note(RUN_DIR, str(trace.parent.resolve()))
        if (budget := self._handle.heat_budget) is not None:
            self._heat = HeatWatch(trace, pause_temp, max_steps, budget)

    def on_step(self, record: StepRecord) -> None:
        """A sign of life."""
        self._handle.beat()

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """Reports the objective; with several there is nothing to prune by."""
        self._handle.beat()
        if self._heat is not None and record.step:
            self._handle.note("heat", self._heat.facts(record.step))
        objectives = self._handle.objectives
        if not record.step or len(objectives) != 1:
            return
        value = _intermediate(objectives[0]["metric"], record)
        if value is not None and math.isfinite(value):
            self._reported = True
            self._prune = self._handle.report(record.step, value) or self._prune

    def is_pruned(self) -> bool:
        """Whether the study has no more use for this run."""
        return self._prune

    def on_result(self, result: Mapping[str, Any]) -> None:
        """Tells how the run ended."""
        thermal = result.get("thermal")
        if isinstance(thermal, Mapping):
            self._handle.note("thermal", {key: thermal.get(key) for key in _HEAT})
        end = end_of(result, self._handle.objectives, self._handle.constraints)
        if end.reason == "interrupted" and _time_is_up():
            end = replace(end, reason="timeout")
        if end.state == "complete" and self._prune:  # at its last step, where Optuna's own loop prunes too
            end = TrialEnd("pruned", "pruned")
        self._tell(end)

    def on_error(self, error: BaseException) -> None:
        """Tells of a run that broke; one that had a finite value before it diverged is worth remembering."""
        if isinstance(error, KeyboardInterrupt):
            self._handle.fail(*(("timeout", "") if _time_is_up() else ("interrupted", "stopped by hand")))
        elif isinstance(error, NonFiniteLossError) and self._reported:
            self._handle.pruned("nan")
        elif isinstance(error, NonFiniteLossError):
            self._handle.fail("nan", str(error))
        else:
            kind = "" if isinstance(error, BitAxonError) else f"{type(error).__name__}: "
            self._handle.fail(_cause(error), f"{kind}{error}")

    def _tell(self, end: TrialEnd) -> None:
        if end.state == "complete":
            self._handle.complete(end.values, end.constraints)
        elif end.state == "pruned":
            self._handle.pruned(end.reason)
        else:
            self._handle.fail(end.reason, end.message)


@contextmanager
def trial_job(config: TrialConfig) -> Iterator[TrialJob]:
    """The job of a run that is a trial; tells of whatever breaks in between."""
    job = TrialJob(attach(config))
    try:
        yield job
    except BaseException as error:
        job.on_error(error)
        raise


def _cause(error: BaseException) -> str:
    """What is no fault of the trial's parameters is told from what may be."""
    if isinstance(error, StorageError):
        return "storage"
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        return "out_of_memory"
    return "exception"


def end_of(
    result: Mapping[str, Any], objectives: Sequence[Mapping[str, str]], limits: Mapping[str, float]
) -> TrialEnd:
    """What a run's result.json means for its trial.

    Args:
        result: of the run.
        objectives: of the study, by `metric`.
        limits: the largest values that figures may have.
    """
    reason = str(result["stop_reason"])
    if result["state"] == "pruned":
        return TrialEnd("pruned", "pruned")
    if reason in _FAILED_AS:
        return TrialEnd("failed", _FAILED_AS[reason], f"at step {result['step']}")
    found = {each["metric"]: number_of(result, each["metric"]) for each in objectives}
    values = [value for value in found.values() if value is not None]
    if len(values) < len(found):
        missing = ", ".join(metric for metric, value in found.items() if value is None)
        return TrialEnd("failed", "exception", f"the result has no number for {missing}")
    if not all(map(math.isfinite, values)):
        return TrialEnd("failed", "nan", f"the objective is {found}")
    return TrialEnd("complete", values=tuple(values), constraints=constraints_of(result, limits))


def constraints_of(result: Mapping[str, Any], limits: Mapping[str, float]) -> dict[str, float]:
    """By how much each figure is over its limit; 0 for one that is not known, as no trial may lack one."""
    found = {name: number_of(result, name) for name in limits}
    return {name: 0.0 if value is None else value - limits[name] for name, value in found.items()}


def number_of(result: Mapping[str, Any], name: str) -> float | None:
    """A figure of result.json by its name; dots lead into its parts, `seconds` alone is the total."""
    value: Any = result
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        value = value.get("total")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _time_is_up(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether whoever started this process stops it because it takes too long."""
    deadline = environment.get(DEADLINE)
    return deadline is not None and time.monotonic() >= float(deadline)


def _intermediate(metric: str, record: EvaluationRecord) -> float | None:
    named = {"eval_loss": record.loss, "eval_loss_best": record.loss_best}
    return named[metric] if metric in named else record.metrics.get(metric)
