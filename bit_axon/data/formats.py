"""The row formats: what keys each has, and what conversation, text or pair a row means.

A new format is one class here and its name in `FORMATS`. `auto` takes the first format of `FORMATS`
whose keys the first row of a source has.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, Protocol

from bit_axon.data.fields import has, keys_of, text_of, tools_of, turns_of
from bit_axon.data.messages import Message, assistant, checked_messages, require_answer, user
from bit_axon.data.reading import Row
from bit_axon.data.samples import PairSample, Sample
from bit_axon.errors import ConfigError, DataError, problem

AUTO = "auto"


class RowFormat(Protocol):
    """How rows of one layout are read."""

    @property
    def keys(self) -> tuple[str, ...]:
        """What a row must have, for messages."""

    def fits(self, values: Mapping[str, Any]) -> bool:
        """Whether the row has this format's keys."""

    def sample(self, row: Row) -> Sample:
        """The row as one sequence to learn; raises DataError."""


class MessagesFormat:
    """`{"messages": [...]}`, also under `conversations`; optional `tools`. Every answer is trained."""

    keys = ("messages",)

    def fits(self, values: Mapping[str, Any]) -> bool:
        """Either key."""
        return has(values, "messages") or has(values, "conversations")

    def sample(self, row: Row) -> Sample:
        """The conversation as it stands."""
        key = "messages" if has(row.values, "messages") else "conversations"
        messages = checked_messages(row.values[key], key, row.where)
        require_answer(messages, row.where)
        return Sample(row.where, messages, tools=tools_of(row))


class CompletionFormat:
    """`{"prompt": ..., "completion": ...}`, each a text or a message list."""

    keys = ("prompt", "completion")

    def fits(self, values: Mapping[str, Any]) -> bool:
        """Both keys."""
        return all(has(values, key) for key in self.keys)

    def sample(self, row: Row) -> Sample:
        """A user's turn and its answer."""
        return _answered(row, turns_of(row, "prompt", user), "completion")


class AlpacaFormat:
    """`{"instruction": ..., "input": ..., "output": ...}`; `input` may be missing or empty."""

    keys = ("instruction", "output")

    def fits(self, values: Mapping[str, Any]) -> bool:
        """Both keys; `input` is optional."""
        return all(has(values, key) for key in self.keys)

    def sample(self, row: Row) -> Sample:
        """The user says the instruction, a blank line and the input."""
        question = text_of(row, "instruction")
        if has(row.values, "input") and text_of(row, "input"):
            question = f"{question}\n\n{text_of(row, 'input')}"
        messages = (user(question), assistant(text_of(row, "output")))
        require_answer(messages, row.where)
        return Sample(row.where, messages, answers_from=1)


class TextFormat:
    """`{"text": ...}`: every token is learnt, and the end token behind the text."""

    keys = ("text",)

    def fits(self, values: Mapping[str, Any]) -> bool:
        """The one key."""
        return has(values, "text")

    def sample(self, row: Row) -> Sample:
        """The text as it stands."""
        text = text_of(row, "text")
        if not text:
            raise DataError(problem("text in 'text'", "an empty text", "Remove the row.", where=row.where))
        return Sample(row.where, text=text)


class PreferenceFormat:
    """`{"prompt": ..., "chosen": ..., "rejected": ...}`, each a text or a message list.

    `chosen` and `rejected` may repeat the prompt; without `prompt`, what they share at the start is it.
    As a single sequence the row is its prompt and the chosen answer.
    """

    keys = ("prompt", "chosen", "rejected")

    def fits(self, values: Mapping[str, Any]) -> bool:
        """Both answers; the prompt may be inside them."""
        return has(values, "chosen") and has(values, "rejected")

    def sample(self, row: Row) -> Sample:
        """The prompt and the chosen answer."""
        return _answered(row, self._prompt(row), "chosen")

    def pair(self, row: Row) -> PairSample:
        """Both sequences."""
        prompt = self._prompt(row)
        return PairSample(_answered(row, prompt, "chosen"), _answered(row, prompt, "rejected"))

    def _prompt(self, row: Row) -> tuple[Message, ...]:
        if has(row.values, "prompt"):
            return turns_of(row, "prompt", user)
        chosen, rejected = (turns_of(row, key, assistant) for key in ("chosen", "rejected"))
        shared = takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False))
        prompt = tuple(first for first, _ in shared)[: min(len(chosen), len(rejected)) - 1]
        if not prompt:
            raise DataError(
                problem(
                    "'prompt', or conversations that start alike in 'chosen' and 'rejected'",
                    "neither",
                    "Add the prompt to the row.",
                    where=row.where,
                )
            )
        return prompt


PREFERENCE = PreferenceFormat()
FORMATS: Mapping[str, RowFormat] = {
    "preference": PREFERENCE,
    "messages": MessagesFormat(),
    "completion": CompletionFormat(),
    "alpaca": AlpacaFormat(),
    "text": TextFormat(),
}


def check_format(name: str) -> None:
    """Refuses a format name that is not known.

    Raises:
        ConfigError: with the nearest name.
    """
    if name in (AUTO, *FORMATS):
        return
    close = get_close_matches(name, (AUTO, *FORMATS), n=1)
    hint = f"Did you mean '{close[0]}'?" if close else "Leave it at auto."
    raise ConfigError(problem(f"data.format one of {AUTO}, {', '.join(FORMATS)}", f"'{name}'", hint))


def formatted(rows: Iterator[Row], name: str) -> Iterator[tuple[Row, RowFormat]]:
    """Each row with its format; `auto` is decided by the first row and holds for all.

    Raises:
        ConfigError: unknown format name.
        DataError: the first row has no known layout, or a later row has another one.
    """
    check_format(name)
    chosen = None if name == AUTO else FORMATS[name]
    for row in rows:
        chosen = chosen or _detected(row)
        if not chosen.fits(row.values):
            raise DataError(
                problem(
                    f"keys {', '.join(chosen.keys)}",
                    f"keys {keys_of(row)}",
                    "Give every row of a file the same layout, or set data.format.",
                    where=row.where,
                )
            )
        yield row, chosen


def pair_of(row: Row, row_format: RowFormat) -> PairSample:
    """The row's pair.

    Raises:
        DataError: the format has no pairs.
    """
    if not isinstance(row_format, PreferenceFormat):
        raise DataError(
            problem(
                "preference rows (prompt, chosen, rejected)",
                f"keys {keys_of(row)}",
                "Give preference data, or train with method=sft.",
                where=row.where,
            )
        )
    return row_format.pair(row)


def _detected(row: Row) -> RowFormat:
    for candidate in FORMATS.values():
        if candidate.fits(row.values):
            return candidate
    layouts = "; ".join(f"{name}: {', '.join(f.keys)}" for name, f in FORMATS.items())
    raise DataError(
        problem(
            f"a known row layout ({layouts})",
            f"keys {keys_of(row)}",
            "Rename the keys, or set data.format.",
            where=row.where,
        )
    )


def _answered(row: Row, prompt: tuple[Message, ...], key: str) -> Sample:
    """The prompt and the answer under `key`, which may repeat the prompt."""
    answer = turns_of(row, key, assistant)
    if len(answer) > len(prompt) and answer[: len(prompt)] == prompt:
        answer = answer[len(prompt) :]
    require_answer(answer, row.where)
    plain = all(isinstance(row.values.get(name), str) for name in ("prompt", key))
    return Sample(row.where, prompt + answer, len(prompt), tools_of(row), plain=plain)
