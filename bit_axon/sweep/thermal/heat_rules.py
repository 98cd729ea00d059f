"""When heat may be held against a trial, and when it is weather.

Heat says something about a trial's parameters only if the trial began as cool as the others, had the
machine to itself, and searches a parameter that changes how much work there is.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Final, Protocol

from bit_axon.sweep.thermal.heat import Heat, HeatBudget, heat_from

START_TEMP: Final = "start_temp_c"  # attributes of a trial
START: Final = "start"
HEAT: Final = "heat"
THERMAL_STOP: Final = "thermal_stop"  # a reason


class Trial(Protocol):
    """A trial as storage has it; Optuna's `FrozenTrial` is one."""

    number: int
    datetime_start: datetime | None
    datetime_complete: datetime | None

    @property
    def params(self) -> dict[str, Any]:
        """By key."""

    @property
    def user_attrs(self) -> dict[str, Any]:
        """What this product keeps with it."""


def judge(
    trial: Trial, trials: Iterable[Trial], budget: HeatBudget, heat: Heat | None = None
) -> tuple[str, float] | None:
    """How far over its budget a trial is, and in what; None where its heat must not be held against it.

    Args:
        trial: with its attributes `start` and `heat`.
        trials: of the study, to see whether others shared the machine.
        budget: of the study.
        heat: newer than the attribute.
    """
    start = trial.user_attrs.get(START)
    found = heat or heat_from(trial.user_attrs.get(HEAT))
    if found is None or not isinstance(start, Mapping) or start.get("cool") is not True:
        return None
    if not is_caused(trial.params, budget.causes):
        return None
    excess = found.excess(budget)
    return None if excess is None or had_company(trial, trials) else excess


def constraint(trial: Trial, trials: Iterable[Trial], budget: HeatBudget) -> dict[str, float]:
    """For the sampler: above 0 = over the budget. Every trial of a study gets one; weather counts as 0."""
    excess = judge(trial, trials, budget)
    return {HEAT: 0.0 if excess is None else excess[1]}


def is_caused(params: Iterable[str], causes: Iterable[str]) -> bool:
    """Whether a search over these parameters can change the heat."""
    names = [name.lstrip("+~") for name in params]
    return any(fnmatchcase(name, cause) for name in names for cause in causes)


def had_company(trial: Trial, trials: Iterable[Trial]) -> bool:
    """Whether another trial of the study ran on the same host at the same time."""
    host = _host(trial)
    if host is None or trial.datetime_start is None:
        return False
    end = trial.datetime_complete
    return any(
        other.number != trial.number
        and _host(other) == host
        and other.datetime_start is not None
        and (end is None or other.datetime_start < end)
        and (other.datetime_complete is None or other.datetime_complete > trial.datetime_start)
        for other in trials
    )


def _host(trial: Trial) -> str | None:
    owner = trial.user_attrs.get("owner")
    return str(owner["host"]) if isinstance(owner, Mapping) and "host" in owner else None


def stopped_again(trial: Trial, trials: Iterable[Trial]) -> bool:
    """Whether a thermal stop is the second of the same parameters, from a cool start both times.

    The first may be the weather and is tried again; the second is a property of the parameters.
    """
    by_number = {other.number: other for other in trials}
    earlier = by_number.get(trial.user_attrs.get("retry_of", -1))
    while earlier is not None and not _stopped_from_cool(earlier):
        earlier = by_number.get(earlier.user_attrs.get("retry_of", -1))
    return earlier is not None and _stopped_from_cool(trial)


def _stopped_from_cool(trial: Trial) -> bool:
    start = trial.user_attrs.get(START)
    cool = isinstance(start, Mapping) and start.get("cool") is True
    return cool and trial.user_attrs.get("reason") == THERMAL_STOP
