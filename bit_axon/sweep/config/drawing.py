"""Optuna's samplers of spaces without end; each as the options that a config gives it.

A seeded sampler that is built again suggests the same values again, so each start of a sweep moves the
seed on. A sampler that keeps its place in the study keeps its seed too.
"""

from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from bit_axon.schema import Count, Positive, PositiveInt, options
from bit_axon.sweep.config.named import needs
from bit_axon.sweep.config.space import Space

Seed = Annotated[int, Ge(0), Lt(2**31)]
Share = Annotated[float, Ge(0), Le(1)]


def _moved(seed: int | None, offset: int) -> int | None:
    return None if seed is None else seed + offset


@options
class RandomOptions:
    """Independent draws."""

    name: Literal["random"] = "random"
    seed: Seed | None = 0  # null: another one at each start

    def make(self, offset: int, space: Space, path: str) -> BaseSampler:
        """Of these options."""
        return RandomSampler(seed=_moved(self.seed, offset))


@options
class TpeOptions:
    """Tree-structured Parzen estimator: the default, with one objective or several."""

    name: Literal["tpe"] = "tpe"
    seed: Seed | None = 0
    n_startup_trials: Count = 10  # drawn at random first
    n_ei_candidates: PositiveInt = 24
    multivariate: bool | None = None  # null: as Optuna decides
    group: bool = False
    constant_liar: bool = True  # running trials count as bad ones, so that workers spread out

    def make(self, offset: int, space: Space, path: str) -> BaseSampler:
        """Of these options."""
        return TPESampler(
            n_startup_trials=self.n_startup_trials,
            n_ei_candidates=self.n_ei_candidates,
            seed=_moved(self.seed, offset),
            multivariate=self.multivariate,
            group=self.group,
            constant_liar=self.constant_liar,
        )


@options
class CmaEsOptions:
    """Covariance matrix adaptation, for several numbers; needs the package cmaes."""

    name: Literal["cmaes"] = "cmaes"
    seed: Seed | None = 0
    n_startup_trials: Count = 1
    sigma0: Positive | None = None
    popsize: PositiveInt | None = None
    consider_pruned_trials: bool = False
    use_separable_cma: bool = False
    with_margin: bool = False
    lr_adapt: bool = False

    def make(self, offset: int, space: Space, path: str) -> BaseSampler:
        """Of these options; what it cannot draw, such as choices, is drawn at random."""
        needs("cmaes", self.name, path)
        seed = _moved(self.seed, offset)
        return CmaEsSampler(
            sigma0=self.sigma0,
            n_startup_trials=self.n_startup_trials,
            independent_sampler=RandomSampler(seed=seed),
            warn_independent_sampling=False,
            seed=seed,
            consider_pruned_trials=self.consider_pruned_trials,
            popsize=self.popsize,
            use_separable_cma=self.use_separable_cma,
            with_margin=self.with_margin,
            lr_adapt=self.lr_adapt,
        )


@options
class GpOptions:
    """Gaussian process; needs the package torch."""

    name: Literal["gp"] = "gp"
    seed: Seed | None = 0
    n_startup_trials: Count = 10
    deterministic_objective: bool = False

    def make(self, offset: int, space: Space, path: str) -> BaseSampler:
        """Of these options."""
        needs("torch", self.name, path)
        return GPSampler(
            seed=_moved(self.seed, offset),
            n_startup_trials=self.n_startup_trials,
            deterministic_objective=self.deterministic_objective,
        )


@options
class QmcOptions:
    """A low-discrepancy sequence, whose place the study keeps."""

    name: Literal["qmc"] = "qmc"
    seed: Seed | None = 0
    qmc_type: Literal["sobol", "halton"] = "sobol"
    scramble: bool = False

    def make(self, offset: int, space: Space, path: str) -> BaseSampler:
        """Of these options; the same seed at each start, for it is the name of the sequence."""
        return QMCSampler(
            qmc_type=self.qmc_type,
            scramble=self.scramble,
            seed=self.seed,
            independent_sampler=RandomSampler(seed=_moved(self.seed, offset)),
            warn_asynchronous_seeding=False,
            warn_independent_sampling=False,
        )


@options
class Nsga2Options:
    """A genetic algorithm, mostly for several objectives."""

    name: Literal["nsgaii"] = "nsgaii"
    seed: Seed | None = 0
    population_size: Annotated[int, Ge(2)] = 50
    mutation_prob: Share | None = None  # null: 1 / number of keys
    crossover_prob: Share = 0.9
    swapping_prob: Share = 0.5

    def make(self, offset: int, space: Space, path: str) -> BaseSampler:
        """Of these options."""
        return NSGAIISampler(
            population_size=self.population_size,
            mutation_prob=self.mutation_prob,
            crossover_prob=self.crossover_prob,
            swapping_prob=self.swapping_prob,
            seed=_moved(self.seed, offset),
        )


@options
class Nsga3Options:
    """A genetic algorithm for many objectives."""

    name: Literal["nsgaiii"] = "nsgaiii"
    seed: Seed | None = 0
    population_size: Annotated[int, Ge(2)] = 50
    mutation_prob: Share | None = None
    crossover_prob: Share = 0.9
    swapping_prob: Share = 0.5
    dividing_parameter: PositiveInt = 3

    def make(self, offset: int, space: Space, path: str) -> BaseSampler:
        """Of these options."""
        return NSGAIIISampler(
            population_size=self.population_size,
            mutation_prob=self.mutation_prob,
            crossover_prob=self.crossover_prob,
            swapping_prob=self.swapping_prob,
            seed=_moved(self.seed, offset),
            dividing_parameter=self.dividing_parameter,
        )
