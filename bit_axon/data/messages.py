"""Conversations: what a message must be, and how a wrong one is reported."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from bit_axon.errors import DataError, problem

ROLES = ("system", "user", "assistant", "tool")

# Names that the ShareGPT layout uses for the same roles.
_ROLE_ALIASES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}

Message = dict[str, Any]


def user(content: str) -> Message:
    """A user's turn."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """An answer."""
    return {"role": "assistant", "content": content}


def checked_messages(value: Any, key: str, where: str) -> tuple[Message, ...]:
    """A message list with known roles and text contents; other keys of a message stay.

    Args:
        value: the list as read; ShareGPT's `from` and `value` are accepted for `role` and `content`.
        key: its key in the row, for messages.
        where: `file:line`.

    Raises:
        DataError: it is no list, is empty, or a message is wrong.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise _wrong(f"'{key}' as a list of messages", _shown(value), where)
    if not value:
        raise _wrong(f"at least one message in '{key}'", "an empty list", where)
    return tuple(_checked(item, f"{key}[{index}]", where) for index, item in enumerate(value))


def _checked(item: Any, key: str, where: str) -> Message:
    if not isinstance(item, Mapping):
        raise _wrong(f"{key} as an object with role and content", _shown(item), where)
    # Column files fill keys that only other messages have with null.
    message = {name: value for name, value in item.items() if value is not None}
    if "from" in message and "role" not in message:
        message = {"role": message.pop("from"), "content": message.pop("value", None), **message}
    message["role"] = _role(message, key, where)
    if message["role"] == "assistant" and message.get("tool_calls"):
        message.setdefault("content", "")
    if not isinstance(message.get("content"), str):
        raise _wrong(f"text in {key}.content", _shown(message.get("content")), where)
    return message


def _role(message: Message, key: str, where: str) -> str:
    role = message.get("role")
    role = _ROLE_ALIASES.get(role, role) if isinstance(role, str) else role
    if role in ROLES:
        return str(role)
    close = get_close_matches(str(role), ROLES, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise DataError(
        problem(f"role {', '.join(ROLES)} in {key}", _shown(role), f"Correct the role.{hint}", where=where)
    )


def has_answer(messages: Sequence[Message]) -> bool:
    """Whether an assistant says or calls anything."""
    return any(m["role"] == "assistant" and (m["content"].strip() or m.get("tool_calls")) for m in messages)


def require_answer(messages: Sequence[Message], where: str) -> None:
    """Refuses a row that trains nothing.

    Raises:
        DataError: no assistant turn, or only blank ones.
    """
    if has_answer(messages):
        return
    roles = ", ".join(m["role"] for m in messages) or "nothing"
    blank = any(m["role"] == "assistant" for m in messages)
    got = (
        "a row without an answer: its assistant turns are blank"
        if blank
        else f"a row without an answer: {roles}"
    )
    raise DataError(
        problem("an assistant turn with text", got, "Add the answer, or remove the row.", where=where)
    )


def _wrong(wanted: str, got: str, where: str) -> DataError:
    remedy = 'A message is {"role": "user", "content": "text"}.'
    return DataError(problem(wanted, got, remedy, where=where))


def _shown(value: Any) -> str:
    if value is None:
        return "null or nothing"
    text = f"'{value}'" if isinstance(value, str) else f"{type(value).__name__} {value!r}"
    return text if len(text) <= 80 else text[:77] + "..."
