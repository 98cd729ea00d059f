"""From plain mappings to the schema's dataclasses, with every mistake named at once."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from bit_axon.errors import ConfigError, nearest, problem

__all__ = ["check", "nearest"]

T = TypeVar("T")

_WORDS = (("a valid integer", "a whole number"), ("a valid array", "a list"), ("a valid ", "a "))
_QUOTED = re.compile(r"'([^']*)'")


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
        raise ConfigError(heading + "\n".join(lines.values()), keys=tuple(lines)) from None


def _lines(schema: type, path: str, details: Iterable[Any]) -> dict[str, str]:
    """One line per wrong key; the members of a union are one line."""
    unknown: dict[str, str] = {}
    wanted: dict[str, list[str]] = {}
    places: dict[str, tuple[list[str], Any]] = {}
    for detail in details:
        keys = _config_keys(schema, detail["loc"])
        key = _joined(path, keys)
        if detail["type"] == "unexpected_keyword_argument":
            known = [_joined(path, [*keys[:-1], name]) for name in _siblings(schema, keys[:-1])]
            unknown[key] = f"unknown key '{key}'. {nearest(key, known)}"
        else:
            wanted.setdefault(key, []).append(_wanted(detail))
            places[key] = (keys, None if detail["type"] == "missing" else detail["input"])
    return unknown | {key: _wrong(schema, key, texts, *places[key]) for key, texts in wanted.items()}


def _joined(path: str, keys: Sequence[str]) -> str:
    return ".".join([path, *keys] if path else keys)


def _wrong(schema: type, key: str, wanted: list[str], keys: list[str], value: Any) -> str:
    """The message for one key whose value is wrong."""
    choices = [choice for text in wanted for choice in _QUOTED.findall(text)]
    close = get_close_matches(str(value), choices, n=1)
    if close:
        remedy = f"Did you mean {key}={close[0]}?"
    else:
        default = _default(schema, keys)
        remedy = f"Change it; the default is {key}={default}." if default else f"Change {key}."
    return problem(" or ".join(wanted), _shown(value), remedy, where=key)


def _wanted(detail: Any) -> str:
    """Pydantic's sentence as what was wanted: `a whole number`, `a number greater than 0`, `'a' or 'b'`."""
    if detail["type"] == "missing":
        return "a value"
    text = str(detail["msg"]).removeprefix("Input should be ").rstrip(".")
    for theirs, ours in _WORDS:
        text = text.replace(theirs, ours)
    return f"a number {text}" if text.startswith(("greater", "less")) else text


def _default(schema: Any, keys: Sequence[str]) -> str | None:
    """A key's default as one writes it on the command line, where it has a plain one."""
    for key in keys[:-1]:
        schema = _node_type(schema, key)
    found = {f.name: f.default for f in fields(schema)} if is_dataclass(schema) else {}
    value = found.get(keys[-1], MISSING) if keys else MISSING
    return None if value is MISSING else json.dumps(value).strip('"')


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
        elif not keys or is_dataclass(current) or current is dict:
            keys.append(str(part))
            current = None
    return keys


def _node_type(schema: Any, key: str) -> Any:
    """What lies under a key: a dataclass, `dict` for free names, or None for a plain value."""
    found = next((m.type for m in fields(schema) if m.name == key), None) if is_dataclass(schema) else None
    if get_origin(found) is dict:
        return dict
    return next((c for c in (found, *get_args(found)) if is_dataclass(c)), None)


def _siblings(schema: Any, keys: Sequence[str]) -> list[str]:
    for key in keys:
        schema = _node_type(schema, key)
    return [f.name for f in fields(schema)] if is_dataclass(schema) else []


def _shown(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else f"'{value}'"
    return text if len(text) <= 80 else text[:77] + "..."
