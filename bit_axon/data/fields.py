"""Single keys of a row, checked."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bit_axon.data.messages import Message, checked_messages
from bit_axon.data.reading import Row
from bit_axon.errors import DataError, problem


def has(values: Mapping[str, Any], key: str) -> bool:
    """Whether a key is there; column files fill missing ones with null."""
    return values.get(key) is not None


def keys_of(row: Row) -> str:
    """The row's keys, for messages."""
    return ", ".join(key for key in row.values if has(row.values, key)) or "none"


def text_of(row: Row, key: str) -> str:
    """The text under a key; raises DataError for anything else."""
    value = row.values.get(key)
    if not isinstance(value, str):
        raise DataError(
            problem(
                f"text in '{key}'", f"{type(value).__name__} {value!r:.60}", "Write a text.", where=row.where
            )
        )
    return value


def turns_of(row: Row, key: str, speaker: Callable[[str], Message]) -> tuple[Message, ...]:
    """A text said by `speaker`, or a message list."""
    value = row.values[key]
    if isinstance(value, str):
        return (speaker(value),)
    if isinstance(value, Mapping):
        return checked_messages([value], key, row.where)
    return checked_messages(value, key, row.where)


def tools_of(row: Row) -> tuple[Mapping[str, Any], ...]:
    """Tool schemas of the row, given as a list or as its JSON text."""
    value = row.values.get("tools")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(
                problem("JSON in 'tools'", error.msg, "Write a list of schemas.", where=row.where)
            ) from None
    if value is None:
        return ()
    if not isinstance(value, Sequence) or not all(isinstance(item, Mapping) for item in value):
        raise DataError(
            problem(
                "'tools' as a list of schemas", f"{value!r:.60}", "Write a list of objects.", where=row.where
            )
        )
    return tuple(value)
