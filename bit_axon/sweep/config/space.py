"""The search space: Hydra's override grammar as Optuna's distributions, and drawn values as overrides.

    choice(4,8)  4,8  glob(*)        one of the values; a list or dict is one value
    interval(0,1)                    a fraction between the bounds, also where these are whole numbers
    int(interval(1,8))               a whole number, both bounds included
    range(1,5)  range(0.1,1.0,0.3)   what Hydra's grid would run: 1 2 3 4; 0.1 0.4 0.7
    tag(log, ...)                    drawn on a logarithmic scale

A key that the command line sets to one value leaves the space, whatever the sweep's file says of it:
otherwise Optuna would record a value that the job did not use.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Final

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from bit_axon.composition import with_free_tags
from bit_axon.errors import ConfigError, problem
from bit_axon.sweep.config.distributions import create_parser, distribution, parsed
from bit_axon.sweep.config.spelling import distribution_text, value_text

PARAMS_KEY: Final = "hydra.sweeper.params"


@dataclass(frozen=True)
class Space:
    """What is searched, and what all trials share.

    Attributes:
        distributions: by plain key, in the order of the file, then of the command line.
        fixed: overrides of one value, for every job; later ones win.
        elements: each key as it is written in an override, with Hydra's `+` where it has one.
        verbatim: by key, the choices that are the text of a list or dict and go out unquoted.
        dropped: keys that the file searches and the command line fixes.
    """

    distributions: dict[str, BaseDistribution]
    fixed: tuple[str, ...]
    elements: dict[str, str]
    verbatim: dict[str, frozenset[str]]
    dropped: tuple[str, ...] = ()

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """One override per searched key, written so that Hydra gives back exactly the value drawn."""
        known = self.distributions
        if set(params) != set(known):
            raise ConfigError(
                problem(f"values for {', '.join(known)}", ", ".join(params), "Choose a new study.")
            )
        return with_free_tags([f"{self.elements[name]}={self.text(name, params[name])}" for name in known])

    def text(self, name: str, value: Any) -> str:
        """One value of a key as the override grammar writes it."""
        verbatim = isinstance(value, str) and value in self.verbatim.get(name, ())
        return str(value) if verbatim else value_text(value)

    def fingerprint(self) -> dict[str, str]:
        """The space in canonical words by key; equal exactly where Optuna's distributions are."""
        return {
            name: distribution_text(found, partial(self.text, name))
            for name, found in self.distributions.items()
        }

    def values(self, name: str) -> tuple[Any, ...] | None:
        """All values of a key in order; None where there is a continuum of them."""
        found = self.distributions[name]
        if isinstance(found, CategoricalDistribution):
            return tuple(found.choices)
        if isinstance(found, IntDistribution):
            return tuple(range(found.low, found.high + 1, found.step))
        assert isinstance(found, FloatDistribution)
        if found.step is None:
            return (found.low,) if found.single() else None
        low, high, step = (Decimal(str(number)) for number in (found.low, found.high, found.step))
        return tuple(float(low + k * step) for k in range(int((high - low) / step) + 1))

    def examples(self) -> list[dict[str, Any]]:
        """A few trials that hold every choice and both bounds, to try the config before a study exists."""
        columns = {name: self._extremes(name) for name in self.distributions}
        rows = max(len(values) for values in columns.values())
        return [{name: v[row % len(v)] for name, v in columns.items()} for row in range(rows)]

    def _extremes(self, name: str) -> tuple[Any, ...]:
        found = self.distributions[name]
        if isinstance(found, IntDistribution | FloatDistribution):
            return (found.low, found.high)
        return self.values(name) or ()


def parse_space(
    params: Mapping[str, Any], arguments: Sequence[str], *, config_loader: ConfigLoader | None = None
) -> Space:
    """Reads a sweep's `params` and the command line's overrides; for one key the last one wins.

    Args:
        params: override values by key, as in `hydra.sweeper.params`; nested mappings are dotted keys.
        arguments: the overrides of the command line, without Hydra's own.
        config_loader: finds a group's options, for `glob(...)`.

    Raises:
        ConfigError: a value cannot be read, or there is nothing to search; it names the key.
    """
    parser = create_parser(config_loader)
    from_file = [_from_file(parser, key, value) for key, value in _flat(params)]
    given = [parsed(parser, text, text.partition("=")[0]) for text in arguments]
    searched = _last_swept([*from_file, *given])
    dropped = tuple(name for name in _last_swept(from_file) if name not in searched)
    if not searched:
        raise ConfigError(_nothing(dropped), [PARAMS_KEY])
    distributions, verbatim = {}, {}
    for name, found in searched.items():
        of_file = any(found is other for other in from_file)
        where = f"{PARAMS_KEY}.{name}" if of_file else name
        distributions[name], verbatim[name] = distribution(found, where)
    replaced = {*searched, *map(name_of, given)}
    fixed = [found for found in from_file if name_of(found) not in replaced]
    fixed += [f for f in given if name_of(f) not in searched and not f.is_sweep_override()]
    return Space(
        distributions,
        fixed=tuple(with_free_tags([str(found.input_line) for found in fixed])),
        elements={name: found.get_key_element() for name, found in searched.items()},
        verbatim=verbatim,
        dropped=dropped,
    )


def _last_swept(overrides: Sequence[Override]) -> dict[str, Override]:
    """The keys whose last override holds several values, in the order of their first one."""
    last = {name_of(found): found for found in overrides}
    return {name: found for name, found in last.items() if found.is_sweep_override()}


def name_of(found: Override) -> str:
    """The key an override is about, without Hydra's `+`, `++` or `~`."""
    return found.get_key_element().lstrip("+~")


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys; the command line adds nested ones to the dotted ones of the file."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _from_file(parser: OverridesParser, key: str, value: Any) -> Override:
    where = f"{PARAMS_KEY}.{key}"
    if isinstance(value, list | tuple):
        got = f"the list {list(value)}"
        remedy = f"Choices are written as text: choice({','.join(map(str, value))})."
        raise ConfigError(problem("values to search", got, remedy, where=where), [where])
    found = parsed(parser, f"{key}={value if isinstance(value, str) else value_text(value)}", where)
    if found.is_hydra_override():
        remedy = "Give it on the command line, or beside `params` in the file."
        raise ConfigError(
            problem("a key of the experiment", f"'{key}', which is Hydra's", remedy, where=where), [where]
        )
    return found


def _nothing(dropped: Sequence[str]) -> str:
    got = f"none: {', '.join(dropped)} fixed on the command line" if dropped else "none"
    return problem("keys to search", got, f"Add {PARAMS_KEY}, or several values: key=a,b.")
