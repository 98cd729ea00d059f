"""Samplers and pruners by name: a mapping `{name: ..., options}` as the checked options of that name."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

from optuna.exceptions import ExperimentalWarning

from bit_axon.errors import ConfigError, nearest, problem
from bit_axon.validation import check

T = TypeVar("T")


def pick(table: Mapping[str, type[T]], spec: Mapping[str, Any], path: str) -> T:
    """The options that `spec` gives to the entry of `table` it names.

    Args:
        table: what there is, by name; each a checked dataclass with a field `name`.
        spec: `{name: ..., option: value, ...}`; options left out have their defaults.
        path: the dotted key of `spec`, for messages.

    Raises:
        ConfigError: an unknown name or option, or a wrong value; it names the key.
    """
    if not isinstance(spec, Mapping) or "name" not in spec:
        got = f"{dict(spec)}" if isinstance(spec, Mapping) else f"'{spec}'"
        remedy = f"For example {path}.name={next(iter(table))}."
        raise ConfigError(problem("a name and its options", got, remedy, where=path), [path])
    name = spec["name"]
    if name not in table:
        where = f"{path}.name"
        wanted = f"one of {', '.join(table)}"
        raise ConfigError(problem(wanted, f"'{name}'", nearest(str(name), table), where=where), [where])
    return check(table[name], spec, path=path)


def needs(package: str, name: str, path: str) -> None:
    """Refuses a choice whose extra package is not installed.

    Raises:
        ConfigError: it is missing.
    """
    if find_spec(package) is None:
        where = f"{path}.name"
        got = f"'{name}' without it"
        remedy = f"Install it (pip install {package}), or choose another name."
        raise ConfigError(problem(f"the package {package}", got, remedy, where=where), [where])


@contextmanager
def building(path: str) -> Iterator[None]:
    """Optuna's refusals as a ConfigError at `path`, and none of its notes that an interface is new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            yield
        except ValueError as error:
            wanted = "options that go together"
            raise ConfigError(problem(wanted, str(error), f"Change {path}.", where=path), [path]) from None
