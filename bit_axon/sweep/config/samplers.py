"""Optuna's samplers by name, for `hydra.sweeper.sampler`: `{name: tpe, seed: 0, n_startup_trials: 8}`.

Here are the table of names and the samplers that visit a finite space; `drawing` has the others.
"""

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final, Literal, Protocol

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, GridSampler, PartialFixedSampler

from bit_axon.errors import ConfigError, nearest, problem
from bit_axon.schema import options
from bit_axon.sweep.config.drawing import (
    CmaEsOptions,
    GpOptions,
    Nsga2Options,
    Nsga3Options,
    QmcOptions,
    RandomOptions,
    Seed,
    TpeOptions,
)
from bit_axon.sweep.config.named import building, pick
from bit_axon.sweep.config.space import Space

SAMPLER_KEY: Final = "hydra.sweeper.sampler"


class SamplerOptions(Protocol):
    """What every entry of `SAMPLERS` can do."""

    def make(self, offset: int, space: Space, path: str) -> BaseSampler:
        """The sampler; its seed moved by `offset` where its place is not kept in the study."""
        ...


@options
class GridOptions:
    """Every combination once, in an order that the seed decides; trial n has cell n of that order."""

    name: Literal["grid"] = "grid"
    seed: Seed = 0

    def make(self, offset: int, space: Space, path: str) -> BaseSampler:
        """Of the space; the seed stays, for the study stores places in its order."""
        return GridSampler(_finite_values(space, self.name, path), seed=self.seed)


@options
class BruteForceOptions:
    """Every combination once, each drawn at random from those that are left."""

    name: Literal["brute_force"] = "brute_force"
    seed: Seed | None = 0

    def make(self, offset: int, space: Space, path: str) -> BaseSampler:
        """Of the space."""
        _finite_values(space, self.name, path)
        return BruteForceSampler(seed=None if self.seed is None else self.seed + offset)


def _finite_values(space: Space, name: str, path: str) -> dict[str, tuple[Any, ...]]:
    """The values of each key.

    Raises:
        ConfigError: a key has a continuum of them.
    """
    found = {key: space.values(key) for key in space.distributions}
    endless = [key for key, values in found.items() if values is None]
    if endless:
        got = f"{endless[0]}={space.fingerprint()[endless[0]]}"
        remedy = "Write choice(...) or range(start,stop,step), or use another sampler."
        where = f"{path}.name={name}"
        raise ConfigError(
            problem("keys with a countable number of values", got, remedy, where=where), endless
        )
    return {key: values for key, values in found.items() if values is not None}


@options
class PartialFixedOptions:
    """Some keys fixed, the rest by the wrapped sampler; the study keeps the whole space."""

    name: Literal["partial_fixed"] = "partial_fixed"
    fixed: dict[str, Any] = field(default_factory=dict)
    wrapped: dict[str, Any] = field(default_factory=lambda: {"name": "tpe"})

    def make(self, offset: int, space: Space, path: str) -> BaseSampler:
        """Of these options and the wrapped sampler's."""
        for key, value in self.fixed.items():
            _check_fixed(space, key, value, f"{path}.fixed.{key}")
        wrapped = build_sampler(self.wrapped, seed_offset=offset, space=space, path=f"{path}.wrapped")
        if isinstance(wrapped, GridSampler | BruteForceSampler):
            where, got = f"{path}.wrapped.name", "one that visits every combination"
            remedy = "Fix the keys on the command line instead: key=VALUE."
            raise ConfigError(problem("a sampler that draws", got, remedy, where=where), [where])
        return PartialFixedSampler(self.fixed, wrapped)


def _check_fixed(space: Space, key: str, value: Any, where: str) -> None:
    """Refuses a fixed key that is not searched, or a value outside of its distribution."""
    if key not in space.distributions:
        remedy = nearest(key, space.distributions)
        raise ConfigError(problem("a key of the search", f"'{key}'", remedy, where=where), [where])
    if not _holds(space.distributions[key], value):
        wanted = f"a value of {space.fingerprint()[key]}"
        raise ConfigError(problem(wanted, f"'{value}'", f"Change {where}.", where=where), [where])


def _holds(found: BaseDistribution, value: Any) -> bool:
    if isinstance(found, CategoricalDistribution):
        return value in found.choices
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and found._contains(found.to_internal_repr(value))


SAMPLERS: Final[Mapping[str, type[SamplerOptions]]] = {
    "tpe": TpeOptions,
    "random": RandomOptions,
    "grid": GridOptions,
    "brute_force": BruteForceOptions,
    "qmc": QmcOptions,
    "nsgaii": Nsga2Options,
    "nsgaiii": Nsga3Options,
    "partial_fixed": PartialFixedOptions,
    "cmaes": CmaEsOptions,
    "gp": GpOptions,
}


def trial_limit(spec: Mapping[str, Any], space: Space) -> int | None:
    """How many trials a sampler that visits every combination has; None for those that draw.

    Raises:
        ConfigError: as `build_sampler`.
    """
    found = pick(SAMPLERS, spec, SAMPLER_KEY)
    if not isinstance(found, GridOptions | BruteForceOptions):
        return None
    return math.prod(len(values) for values in _finite_values(space, found.name, SAMPLER_KEY).values())


def build_sampler(
    spec: Mapping[str, Any], *, seed_offset: int, space: Space, path: str = SAMPLER_KEY
) -> BaseSampler:
    """The sampler of a spec.

    Args:
        spec: `{name: ..., seed: ..., options}`.
        seed_offset: added to the seed of samplers that do not keep their place in the study; the
            how often the study was opened before this start, so that nothing is suggested twice.
        space: what is searched.
        path: the dotted key of `spec`, for messages.

    Raises:
        ConfigError: an unknown name or option, a wrong value, or a space that it cannot search.
    """
    found = pick(SAMPLERS, spec, path)
    with building(path):
        return found.make(seed_offset, space, path)
