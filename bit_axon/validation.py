"""From plain mappings to the schema's dataclasses, with every mistake named at once."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from bit_axon.errors import ConfigError, problem

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` or the list of what there is."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    return f"Did you mean '{close[0]}'?" if close else f"There is: {', '.join(names)}."


def check(schema: type[T], values: Mapping[str, Any], *, path: str = "", source: str | None = None) -> T:
    """Builds `schema` from `values`; types are not converted, except an int given for a float.

    Args:
        schema: a dataclass of `bit_axon.schema`, or of a method.
        values: plain Python values, as composed.
        path: the dotted key of `values` in the config, for messages.
        source: the file or command the values came from, for messages.

    Raises:
        ConfigError: one line per wrong key: what was wanted, what was got, the nearest name.
    """
    try:
        return TypeAdapter(schema).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        lines = _lines(schema, path, error.errors())
        heading = f"{source}: " if source else ""
        raise ConfigError(heading + "\n".join(lines)) from None


def _lines(schema: type, path: str, details: Iterable[Any]) -> list[str]:
    """One line per wrong key; the members of a union are one line."""
    unknown: list[str] = []
    wanted: dict[str, list[str]] = {}
    got: dict[str, str] = {}
    for detail in details:
        keys = _config_keys(schema, detail["loc"])
        key = ".".join([path, *keys] if path else keys)
        if detail["type"] == "unexpected_keyword_argument":
            unknown.append(f"unknown key '{key}'. {nearest(keys[-1], _siblings(schema, keys[:-1]))}")
        else:
            text = detail["msg"].removeprefix("Input should be ").removeprefix("a valid ").rstrip(".")
            wanted.setdefault(key, []).append(text)
            got[key] = _shown(detail["input"])
    wrong = [problem(" or ".join(w), got[k], f"Change {k}.", where=k) for k, w in wanted.items()]
    return unknown + wrong


def _config_keys(schema: type, location: tuple[int | str, ...]) -> list[str]:
    """Drops the parts of a location that name a type of a union, not a key."""
    keys: list[str] = []
    current: Any = schema
    for part in location:
        if isinstance(part, int):
            keys.append(str(part))
        elif is_dataclass(current) and part in {f.name for f in fields(current)}:
            keys.append(part)
            current = _node_type(current, part)
        elif not keys or is_dataclass(current):
            keys.append(str(part))
    return keys


def _node_type(schema: Any, key: str) -> Any:
    for member in fields(schema):
        if member.name == key:
            candidates = [member.type, *getattr(member.type, "__args__", ())]
            return next((c for c in candidates if is_dataclass(c)), None)
    return None


def _siblings(schema: Any, keys: list[str]) -> list[str]:
    for key in keys:
        schema = _node_type(schema, key)
    return [f.name for f in fields(schema)] if is_dataclass(schema) else []


def _shown(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else f"'{value}'"
    return text if len(text) <= 80 else text[:77] + "..."
