"""One override of Hydra's grammar as one distribution of Optuna.

Two differences from what others make of the grammar: a range excludes its stop, as in Hydra's own grid,
and its values are counted in decimals, so that 0.1 + 3 x 0.3 does not slip below 1.0.
"""

import math
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final, Union

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
    Sweep,
    Transformer,
)
from hydra.errors import HydraException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from bit_axon.errors import ConfigError, nearest, problem
from bit_axon.sweep.config.spelling import value_text

_FORMS: Final = "choice(a,b), interval(low,high), int(interval(low,high)), range(start,stop) or a,b"
_TAGS: Final = ("log",)
_Element = Union[str, int, bool, float, list[Any], dict[str, Any], None]  # noqa: UP007 - Hydra compares with this at run time


def create_parser(config_loader: ConfigLoader | None = None) -> OverridesParser:
    """Hydra's parser, with null allowed in `choice(...)`.

    Args:
        config_loader: finds a group's options, for `glob(...)`.
    """
    functions = create_functions()
    del functions.definitions["choice"]
    functions.register("choice", _choice)
    return OverridesParser(functions, config_loader)


def _choice(*args: _Element) -> ChoiceSweep:
    if not args:
        raise ValueError("a choice of nothing")
    return ChoiceSweep(list=list(args))


def parsed(parser: OverridesParser, text: str, where: str) -> Override:
    """One override; what cannot be read is said in plain words."""
    try:
        found = parser.parse_override(text)
    except HydraException as error:
        name = text.partition("=")[2].partition("(")[0].strip()
        known = parser.functions.definitions
        unknown = "Unknown function" in str(error)
        reason = (_text(error.__cause__) or _text(error) or "not the grammar of overrides").splitlines()[0]
        got = f"'{name}(...)', which is none of them" if unknown else f"'{text}' ({reason})"
        remedy = (
            nearest(name, known) if unknown else "Correct it, or quote what is one value: key=\"'VALUE'\"."
        )
        raise ConfigError(problem(_FORMS, got, remedy, where=where), [where]) from None
    found.config_loader = parser.config_loader
    return found


def _text(error: BaseException | None) -> str:
    text = str(error).strip()
    return "" if error is None or text == "None" else text


def distribution(found: Override, where: str) -> tuple[BaseDistribution, frozenset[str]]:
    """The distribution of a swept override, and the choices that are the text of a list or dict.

    Raises:
        ConfigError: it cannot be searched; `where` is the key it names.
    """
    value = found.value()
    verbatim: frozenset[str] = frozenset()
    try:
        if isinstance(value, IntervalSweep):
            return _interval(value), verbatim
        if isinstance(value, RangeSweep):
            return _range(value), verbatim
        return _categorical(found)
    except (HydraException, ValueError) as error:
        text = found.get_value_string()
        remedy = f"Write one of {_FORMS}." if not isinstance(error, _Refused) else error.remedy
        raise ConfigError(
            problem("values to search", f"'{text}': {error}", remedy, where=where), [where]
        ) from None


class _Refused(ValueError):
    """A value of the grammar that cannot be searched, with its remedy."""

    def __init__(self, text: str, remedy: str):
        super().__init__(text)
        self.remedy = remedy


def _logarithmic(found: Sweep, low: float) -> bool:
    """Whether it is tagged `log`; other tags mean nothing here and are refused."""
    for tag in sorted(found.tags - set(_TAGS)):
        raise _Refused(f"the tag '{tag}' is not known", nearest(tag, _TAGS))
    if found.tags and low <= 0:
        raise _Refused(f"a logarithmic scale that begins at {low}", "Begin above 0.")
    return bool(found.tags)


def _finite(*numbers: Any) -> None:
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise _Refused("a bound that is not a finite number", "Give two numbers.")


def _interval(found: IntervalSweep) -> BaseDistribution:
    low, high = found.start, found.end
    assert low is not None and high is not None
    _finite(low, high)
    if low > high:
        raise _Refused("the low bound is above the high one", f"Write interval({high},{low}).")
    log = _logarithmic(found, low)
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _range(found: RangeSweep) -> BaseDistribution:
    """The values of Hydra's range, in either direction, from the lowest to the highest."""
    assert found.start is not None and found.stop is not None
    _finite(found.start, found.stop, found.step)
    start, stop, step = (Decimal(str(number)) for number in (found.start, found.stop, found.step))
    count = int(((stop - start) / step).to_integral_value(ROUND_CEILING)) if step else 0
    if count < 1:
        raise _Refused("a range without values", "The first number is included, the second is not.")
    low, high = sorted((start, start + (count - 1) * step))
    log = _logarithmic(found, float(low))
    if log and abs(step) != 1:
        raise _Refused(
            "a logarithmic scale in steps", "Leave out the step, or use tag(log,interval(low,high))."
        )
    if all(isinstance(number, int) for number in (found.start, found.stop, found.step)):
        return IntDistribution(int(low), int(high), step=abs(int(step)), log=log)
    if log:
        raise _Refused("a logarithmic scale in steps of a fraction", "Use tag(log,interval(low,high)).")
    return FloatDistribution(float(low), float(high), step=float(abs(step)))


def _categorical(found: Override) -> tuple[BaseDistribution, frozenset[str]]:
    value = found.value()
    if isinstance(value, ChoiceSweep) and value.tags:
        raise _Refused("a tag on a choice", "Tags go with intervals: tag(log,interval(low,high)).")
    elements = list(found.sweep_iterator())
    if not elements:
        raise _Refused("nothing to choose from", "Name the choices.")
    for element in elements:
        if isinstance(element, Sweep) or (isinstance(element, float) and not math.isfinite(element)):
            raise _Refused("a choice that is no plain value", "List the values: choice(a,b,c).")
    plain = [_plain(element) for element in elements]
    texts = frozenset(p for p, e in zip(plain, elements, strict=True) if isinstance(e, list | dict))
    for position, choice in enumerate(plain):
        if choice in plain[:position]:
            twin = plain[plain.index(choice)]
            same = f"{value_text(twin)} and {value_text(choice)} are the same choice"
            raise _Refused(same, "Leave one of them out.")
    return CategoricalDistribution(plain), texts


def _plain(element: Any) -> Any:
    """A choice as Optuna stores it: a plain value, or the text of a list or dict."""
    if isinstance(element, list | dict):
        return Transformer.str(element)
    return element
