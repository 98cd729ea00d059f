"""What heat did to a study: how its trials started, and whether that shows in the objective."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial, TrialState

from bit_axon.sweep.studies.counting import REASON
from bit_axon.sweep.thermal.heat_pruner import THERMAL_BUDGET
from bit_axon.sweep.thermal.heat_rules import START, START_TEMP, THERMAL_STOP

Floats = npt.NDArray[np.float64]

SPEEDS: Final = ("tokens_per_second", "examples_per_second", "seconds", "joules_per_token", "energy_wh")
_FEWEST_TRIALS = 6  # fewer say nothing about a correlation
_PERMUTATIONS = 9999
_LIKELY_CHANCE = 0.05
_EVEN_TEMP = 5.0  # °C between the coolest and the warmest start


@dataclass(frozen=True)
class Correlation:
    """Of the objective and the temperature at the start, over the trials that ran to their end.

    Attributes:
        trials: how many.
        rho: Spearman's rank correlation, -1 to 1.
        rho_given_number: the same with the trial's number held constant: a sampler improves while a
            machine warms up, which alone makes both move together.
        chance: how often a random order shows a `rho_given_number` as strong, 0 to 1.
    """

    trials: int
    rho: float
    rho_given_number: float
    chance: float

    @property
    def is_likely_chance(self) -> bool:
        """Whether there is no sign that heat moved the objective."""
        return self.chance > _LIKELY_CHANCE


@dataclass(frozen=True)
class HeatReport:
    """Heat in a study; numbers are those of trials.

    Attributes:
        objective: name of the metric.
        known: trials with a start temperature.
        trials: that were started at all.
        lowest_start: °C; None where nothing is known.
        highest_start: °C.
        cool: trials that started cool.
        waited_seconds: of cooling down, in all.
        pruned: for heat.
        stopped: for heat.
        split: that ran with divided micro-batches, so that rounding differs.
        correlation: None where too few trials are known, or all are alike.
    """

    objective: str
    known: int
    trials: int
    lowest_start: float | None
    highest_start: float | None
    cool: int
    waited_seconds: float
    pruned: tuple[int, ...]
    stopped: tuple[int, ...]
    split: tuple[int, ...]
    correlation: Correlation | None

    def to_dict(self) -> dict[str, Any]:
        """For YAML and JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For a person; none where no temperature was known."""
        if self.lowest_start is not None and self.highest_start is not None:
            yield (
                f"Start temperatures of {self.known} of {self.trials} trials: {self.lowest_start:.1f} to "
                f"{self.highest_start:.1f} °C; {self.cool} started cool. "
                f"Cooling down took {self.waited_seconds / 60:.0f} min in all."
            )
            yield self._correlation_line()
            if self.objective in SPEEDS and self.highest_start - self.lowest_start > _EVEN_TEMP:
                yield f"{self.objective} depends on the temperature at the start: compare even starts alone."
        if self.pruned:
            yield f"Pruned for heat: {_numbers(self.pruned)}."
        if self.stopped:
            yield f"Stopped by their thermal limits: {_numbers(self.stopped)}."
        if self.split:
            yield f"Rounded differently, with divided micro-batches: {_numbers(self.split)}."

    def _correlation_line(self) -> str:
        found = self.correlation
        if found is None:
            return (
                f"{self.objective} and start temperature: nothing can be said ({_FEWEST_TRIALS} complete "
                "trials at least, and not all alike)."
            )
        verdict = (
            "no sign that heat moved the objective."
            if found.is_likely_chance
            else "heat may have moved it: cool down longer (hydra.sweeper.cooldown), or repeat the best."
        )
        return (
            f"{self.objective} and start temperature: rank correlation {found.rho:+.2f} over {found.trials} "
            f"complete trials, {found.rho_given_number:+.2f} with the order of the trials held constant "
            f"(chance {found.chance:.2f}): {verdict}"
        )


def heat_report(trials: Sequence[FrozenTrial], objective: str, index: int = 0) -> HeatReport:
    """The report of a study.

    Args:
        trials: all of them.
        objective: name of the metric.
        index: which of the study's values it is.
    """
    started = [trial for trial in trials if trial.state is not TrialState.WAITING]
    temps = [temp for trial in started if (temp := start_temp(trial)) is not None]
    starts = [_mapping(trial, START) for trial in started]
    return HeatReport(
        objective=objective,
        known=len(temps),
        trials=len(started),
        lowest_start=min(temps, default=None),
        highest_start=max(temps, default=None),
        cool=sum(start.get("cool") is True for start in starts),
        waited_seconds=sum(float(start.get("waited_seconds") or 0.0) for start in starts),
        pruned=_with_reason(started, f"pruned:{THERMAL_BUDGET}"),
        stopped=_with_reason(started, THERMAL_STOP),
        split=tuple(t.number for t in started if _mapping(t, "thermal").get("batches_split")),
        correlation=correlation(started, index),
    )


def start_temp(trial: FrozenTrial) -> float | None:
    """°C at which a trial started, if that is known."""
    found = trial.user_attrs.get(START_TEMP)
    return float(found) if isinstance(found, int | float) and np.isfinite(found) else None


def correlation(trials: Sequence[FrozenTrial], index: int = 0) -> Correlation | None:
    """How much the objective moves with the start temperature; None where nothing can be said.

    Pruned trials are left out: their values are those of another step.
    """
    known = [
        (temp, trial.values[index], trial.number)
        for trial in trials
        if trial.state is TrialState.COMPLETE and (temp := start_temp(trial)) is not None
    ]
    if len(known) < _FEWEST_TRIALS:
        return None
    temps, values, numbers = (_ranks(column) for column in np.array(known, dtype=np.float64).T)
    temps_left, values_left = _without(temps, numbers), _without(values, numbers)
    rho, partial = _cosine(temps, values), _cosine(temps_left, values_left)
    if rho is None or partial is None:
        return None
    return Correlation(len(known), rho, partial, _chance(temps_left, values_left, partial))


def _ranks(column: Floats) -> Floats:
    """From the mean of all; equal values share the mean of their places."""
    _, place, counts = np.unique(column, return_inverse=True, return_counts=True)
    means = np.cumsum(counts) - (counts + 1) / 2
    ranks: Floats = means[place] - means[place].mean()
    return ranks


def _without(column: Floats, other: Floats) -> Floats:
    """What a straight line through `other` does not explain; both have a mean of 0."""
    rest: Floats = column - other * (other @ column) / (other @ other)
    return rest


def _cosine(one: Floats, other: Floats) -> float | None:
    length = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / length if length > 1e-9 else None


def _chance(one: Floats, other: Floats, found: float) -> float:
    """The share of random orders that are at least as strong; always the same for the same trials."""
    order = np.random.default_rng(0).permuted(np.tile(other, (_PERMUTATIONS, 1)), axis=1)
    length = float(np.sqrt((one @ one) * (other @ other)))
    strong = np.abs(order @ one) / length >= abs(found) - 1e-12
    return float((strong.sum() + 1) / (_PERMUTATIONS + 1))


def _mapping(trial: FrozenTrial, name: str) -> Mapping[str, Any]:
    found = trial.user_attrs.get(name)
    return found if isinstance(found, Mapping) else {}


def _with_reason(trials: Sequence[FrozenTrial], reason: str) -> tuple[int, ...]:
    return tuple(trial.number for trial in trials if trial.user_attrs.get(REASON) == reason)


def _numbers(numbers: Sequence[int]) -> str:
    word = "trial" if len(numbers) == 1 else "trials"
    return f"{word} {', '.join(str(number) for number in numbers)}"
