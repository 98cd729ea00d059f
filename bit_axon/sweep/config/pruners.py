"""Optuna's pruners by name, for `hydra.sweeper.pruner`: `{name: median, n_startup_trials: 5}`.

Steps are optimizer updates everywhere. A pruner is built anew in each job from the spec that the study
holds, so it is a function of that spec and of the study's trials alone.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Final, Literal, Protocol

from annotated_types import Ge, Gt, Le, Lt
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
    WilcoxonPruner,
)

from bit_axon.schema import Count, NonNegative, PositiveInt, options
from bit_axon.sweep.config.named import building, pick
from bit_axon.sweep.thermal.heat import parse_budget
from bit_axon.sweep.thermal.heat_pruner import HeatPruner

PRUNER_KEY: Final = "hydra.sweeper.pruner"
AtLeastTwo = Annotated[int, Ge(2)]


class PrunerOptions(Protocol):
    """What every entry of `PRUNERS` can do."""

    def make(self, path: str) -> BasePruner:
        """The pruner; ConfigError at `path` where the options do not go together."""
        ...


@options
class NopOptions:
    """Prunes nothing."""

    name: Literal["nop", "none"] = "nop"

    def make(self, path: str) -> BasePruner:
        """Of any options."""
        return NopPruner()


@options
class MedianOptions:
    """Stops a trial whose best value so far is worse than the median of the others at that step."""

    name: Literal["median"] = "median"
    n_startup_trials: Count = 5  # complete ones before anything is pruned
    n_warmup_steps: Count = 0
    interval_steps: PositiveInt = 1
    n_min_trials: PositiveInt = 1  # with a value at that step

    def make(self, path: str) -> BasePruner:
        """Of these options."""
        return MedianPruner(
            self.n_startup_trials, self.n_warmup_steps, self.interval_steps, n_min_trials=self.n_min_trials
        )


@options
class PercentileOptions:
    """Keeps the best `percentile` per cent at each step; 50 is the median."""

    name: Literal["percentile"] = "percentile"
    percentile: Annotated[float, Ge(0), Le(100)] = 25.0
    n_startup_trials: Count = 5
    n_warmup_steps: Count = 0
    interval_steps: PositiveInt = 1
    n_min_trials: PositiveInt = 1

    def make(self, path: str) -> BasePruner:
        """Of these options."""
        return PercentilePruner(
            self.percentile,
            self.n_startup_trials,
            self.n_warmup_steps,
            self.interval_steps,
            n_min_trials=self.n_min_trials,
        )


@options
class SuccessiveHalvingOptions:
    """Asynchronous successive halving: one in `reduction_factor` goes on from each rung."""

    name: Literal["successive_halving"] = "successive_halving"
    min_resource: PositiveInt | Literal["auto"] = "auto"  # steps of the first rung
    reduction_factor: AtLeastTwo = 4
    min_early_stopping_rate: Count = 0
    bootstrap_count: Count = 0

    def make(self, path: str) -> BasePruner:
        """Of these options."""
        return SuccessiveHalvingPruner(
            self.min_resource, self.reduction_factor, self.min_early_stopping_rate, self.bootstrap_count
        )


@options
class HyperbandOptions:
    """Successive halving with several first rungs at once; a trial's number decides which is its own.

    With `max_resource: auto` nothing is pruned before one trial is complete.
    """

    name: Literal["hyperband"] = "hyperband"
    min_resource: PositiveInt = 1
    max_resource: PositiveInt | Literal["auto"] = "auto"  # steps of a whole trial
    reduction_factor: AtLeastTwo = 3
    bootstrap_count: Count = 0

    def make(self, path: str) -> BasePruner:
        """Of these options."""
        return HyperbandPruner(
            self.min_resource, self.max_resource, self.reduction_factor, self.bootstrap_count
        )


@options
class ThresholdOptions:
    """Stops a trial whose value leaves the bounds, or is not a number."""

    name: Literal["threshold"] = "threshold"
    lower: float | None = None
    upper: float | None = None
    n_warmup_steps: Count = 0
    interval_steps: PositiveInt = 1

    def make(self, path: str) -> BasePruner:
        """Of these options, one bound at least."""
        if self.lower is None and self.upper is None:
            raise ValueError("neither lower nor upper")
        return ThresholdPruner(self.lower, self.upper, self.n_warmup_steps, self.interval_steps)


@options
class PatientOptions:
    """Asks the wrapped pruner only after `patience` steps without a better value."""

    name: Literal["patient"] = "patient"
    patience: Count = 1
    min_delta: NonNegative = 0.0
    wrapped: dict[str, Any] | None = field(default_factory=lambda: {"name": "median"})  # null: patience alone

    def make(self, path: str) -> BasePruner:
        """Of these options and the wrapped pruner's."""
        wrapped = None if self.wrapped is None else build_pruner(self.wrapped, path=f"{path}.wrapped")
        return PatientPruner(wrapped, self.patience, self.min_delta)


@options
class WilcoxonOptions:
    """A signed-rank test against the best trial, for values reported per instance, not a curve."""

    name: Literal["wilcoxon"] = "wilcoxon"
    p_threshold: Annotated[float, Gt(0), Lt(1)] = 0.1
    n_startup_steps: Count = 2

    def make(self, path: str) -> BasePruner:
        """Of these options."""
        return WilcoxonPruner(p_threshold=self.p_threshold, n_startup_steps=self.n_startup_steps)


@options
class ThermalOptions:
    """Asks the wrapped pruner first, then ends what started cool and goes over its heat budget."""

    name: Literal["thermal"] = "thermal"
    wrapped: dict[str, Any] | None = field(default_factory=lambda: {"name": "median"})  # null: heat alone
    budget: dict[str, Any] = field(default_factory=dict)  # as hydra.sweeper.heat_budget

    def make(self, path: str) -> BasePruner:
        """Of the budget and the wrapped pruner's options."""
        return HeatPruner(build_pruner(self.wrapped, path=f"{path}.wrapped"), parse_budget(self.budget))


PRUNERS: Final[Mapping[str, type[PrunerOptions]]] = {
    "median": MedianOptions,
    "percentile": PercentileOptions,
    "successive_halving": SuccessiveHalvingOptions,
    "hyperband": HyperbandOptions,
    "threshold": ThresholdOptions,
    "patient": PatientOptions,
    "wilcoxon": WilcoxonOptions,
    "thermal": ThermalOptions,
    "nop": NopOptions,
    "none": NopOptions,
}


def build_pruner(spec: Mapping[str, Any] | None, *, path: str = PRUNER_KEY) -> BasePruner:
    """The pruner of a spec; null prunes nothing.

    Raises:
        ConfigError: an unknown name or option, a wrong value, or options that do not go together.
    """
    found = pick(PRUNERS, spec if spec is not None else {"name": "nop"}, path)
    with building(path):
        return found.make(path)
