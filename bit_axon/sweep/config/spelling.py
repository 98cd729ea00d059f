"""Values and distributions as text: overrides that Hydra reads back exactly, and canonical words."""

import re
from collections.abc import Callable
from typing import Any, Final

from hydra.core.override_parser.types import Quote, QuotedString
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

_PLAIN: Final = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)
_NOT_TEXT: Final = {"null", "true", "false", "inf", "nan"}  # in any case


def value_text(value: Any) -> str:
    """A plain value as the right side of an override: `null`, `true`, `8`, `1e-05`, `dora`, `'a,b'`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT:
        return text
    return QuotedString(text, Quote.single).with_quotes()


def distribution_text(found: BaseDistribution, text: Callable[[Any], str] = value_text) -> str:
    """A distribution as one would write it: `choice(4,8)`, `tag(log,int(interval(1,64)))`.

    Args:
        found: what is written.
        text: writes one choice.
    """
    if isinstance(found, CategoricalDistribution):
        return f"choice({','.join(text(choice) for choice in found.choices)})"
    assert isinstance(found, IntDistribution | FloatDistribution)
    if found.step is not None and not (isinstance(found, IntDistribution) and found.step == 1):
        return f"{found.low} to {found.high} in steps of {found.step}"
    bounds = f"interval({found.low},{found.high})"
    inner = f"int({bounds})" if isinstance(found, IntDistribution) else bounds
    return f"tag(log,{inner})" if found.log else inner
