"""Params of a sweep in short: names without what they share, values as a person writes them."""

import json
from collections.abc import Sequence
from typing import Any, Final

_GOOD_SHARE: Final = 0.9
_MOST_STRETCHED: Final = 1.5  # an axis, for trials that are worse than the good ones


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each dotted name with as few of its last parts as tell it from the others."""
    return {name: _short(name, names) for name in names}


def _short(name: str, names: Sequence[str]) -> str:
    parts = name.split(".")
    for count in range(1, len(parts)):
        ending = ".".join(parts[-count:])
        if not any(other != name and f".{other}".endswith(f".{ending}") for other in names):
            return ending
    return name


def value_text(value: Any) -> str:
    """A value in four digits; null, true and false as in a config."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def good_range(values: Sequence[float], sign: int) -> tuple[float, float]:
    """Lowest and highest of the better nine tenths: a few bad trials would flatten a figure of all.

    `sign` is 1 where less is better, -1 where more is.
    """
    ordered = sorted(values, key=lambda value: sign * value)
    good = ordered[: max(2, int(_GOOD_SHARE * len(ordered)))]
    return min(good), max(good)


def shown_range(values: Sequence[float], sign: int) -> tuple[float, float]:
    """What an axis shows: all values, or `good_range` where the others are far away from it."""
    low, high = good_range(values, sign)
    everything = max(values) - min(values)
    return (min(values), max(values)) if everything <= _MOST_STRETCHED * (high - low) else (low, high)
