"""What rows mean, before they become tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bit_axon.data.messages import Message


@dataclass(frozen=True)
class Sample:
    """What one row means.

    Attributes:
        where: `file:line` of the row.
        messages: the conversation; empty for a row of plain text.
        answers_from: index of the first message that may be trained on.
        tools: JSON schemas for the chat template.
        text: a row of plain text.
        plain: the messages are one prompt and one completion, which may be joined as they are for a
            tokenizer without a chat template.
    """

    where: str
    messages: tuple[Message, ...] = ()
    answers_from: int = 0
    tools: tuple[Mapping[str, Any], ...] = ()
    text: str | None = None
    plain: bool = False


@dataclass(frozen=True)
class PairSample:
    """A preferred and a rejected answer to the same prompt."""

    chosen: Sample
    rejected: Sample
