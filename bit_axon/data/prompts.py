"""Questions with known answers, for samples and task accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bit_axon.data.encoding import Encoder
from bit_axon.data.formats import formatted
from bit_axon.data.messages import Message
from bit_axon.data.reading import read_rows
from bit_axon.data.samples import Sample
from bit_axon.data.sources import Source
from bit_axon.tokenizer import QwenTokenizerWrapper


@dataclass(frozen=True)
class PromptRow:
    """A question with its known answer.

    Attributes:
        messages: the conversation before its last answer.
        reference: that answer.
        tools: JSON schemas for the chat template.
        plain: prompt and answer may be joined as they are for a tokenizer without a chat template.
    """

    messages: list[Message]
    reference: str
    tools: tuple[Mapping[str, Any], ...] = ()
    plain: bool = False


def load_prompts(sources: Sequence[Source], *, format: str, limit: int | None) -> list[PromptRow]:
    """The first `limit` rows (None: all) as questions; rows of plain text ask nothing and are left out.

    Raises:
        DataError: a source or a row is wrong.
        ConfigError: unknown format.
    """
    prompts: list[PromptRow] = []
    for source in sources:
        for row, row_format in formatted(read_rows(source), format):
            if limit is not None and len(prompts) >= limit:
                return prompts
            sample = row_format.sample(row)
            if sample.text is None:
                answer = max(i for i, m in enumerate(sample.messages) if m["role"] == "assistant")
                before, reference = sample.messages[:answer], sample.messages[answer]["content"]
                prompts.append(PromptRow([*before], reference, sample.tools, sample.plain))
    return prompts


def prompt_ids(tokenizer: QwenTokenizerWrapper, prompt: PromptRow) -> list[int]:
    """Ids of a question, ready for an answer to follow, as they are in training.

    Raises:
        ModelError: a conversation, but no chat template.
    """
    sample = Sample("prompt", tuple(prompt.messages), tools=prompt.tools, plain=prompt.plain)
    return Encoder(tokenizer).encode_prompt(sample)
