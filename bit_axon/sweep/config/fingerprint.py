"""What may not change while a study goes on, and what differs, in plain words."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bit_axon.sweep.config.spelling import value_text


def fixed_values(
    fixed: Mapping[str, Any] | Sequence[str], searched: Collection[str], overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """What all trials share, by dotted key, without the keys that are searched.

    Below a searched group only those count that an override sets: the others are different in each option.

    Args:
        fixed: the composed config, nested or dotted; or overrides, whose values stay text.
        searched: the keys of the search.
        overrides: what every trial is launched with.
    """
    flat = _dotted(fixed) if isinstance(fixed, Mapping) else dict(_halves(text) for text in fixed)
    by_group = tuple(f"{name}." for name in searched)
    given = [key for key, _ in map(_halves, overrides) if key.startswith(by_group)]
    by_hand = tuple(f"{key}." for key in given)
    return {
        key: flat[key]
        for key in sorted(flat)
        if key not in searched and (not key.startswith(by_group) or f"{key}.".startswith(by_hand))
    }


def _halves(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+~"), value


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping) and value
        found |= _dotted(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What two fingerprints differ in, a line per key: `adapter.rank: choice(4,8) before, 8 now`."""
    before, now = _labelled(old), _labelled(new)
    return [
        f"{label}: {before.get(label, 'nothing')} before, {now.get(label, 'nothing')} now"
        for label in dict.fromkeys([*before, *now])
        if before.get(label) != now.get(label)
    ]


def _labelled(fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """Every line of a fingerprint; a key has one label, whether it is searched or fixed."""
    goals = [f"{direction} {metric}" for metric, direction in fingerprint.get("objectives", {}).items()]
    limits = fingerprint.get("constraints", {})
    return {
        **fingerprint.get("space", {}),
        "objective": " and ".join(goals),
        **{f"constraint {key}": f"at most {limit:g}" for key, limit in limits.items()},
        **{key: _shown(value) for key, value in fingerprint.get("fixed", {}).items()},
    }


def _shown(value: Any) -> str:
    """A value as an override has it; lists and the like as Python shows them."""
    return str(value) if isinstance(value, list | dict) else value_text(value)
