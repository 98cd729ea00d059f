"""From samples to token ids and loss masks.

Conversations go through the chat template (`rendering.py`) and are tokenised once, as a whole; names of
control tokens inside their contents stay plain text. Rows of `text`, and prompt and completion for a
tokenizer without a template, are raw: a control token's name in them is that token.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bit_axon.data.examples import Example
from bit_axon.data.rendering import RenderedChat, rendered_chat, rendered_prompt
from bit_axon.data.samples import Sample
from bit_axon.errors import DataError, problem
from bit_axon.tokenizer import EncodedText, QwenTokenizerWrapper

# Part of every cache digest: raise it when the same rows would become other tokens or masks.
ENCODING_VERSION = 1


class Encoder:
    """Encodes samples with one tokenizer.

    Args:
        tokenizer: whose template and tokens are used.
        mask_prompt: False trains every token but the first, not only the answers.
    """

    def __init__(self, tokenizer: QwenTokenizerWrapper, *, mask_prompt: bool = True):
        self._tokenizer = tokenizer
        self._mask_prompt = mask_prompt

    def encode(self, samples: Sequence[Sample]) -> list[Example]:
        """One example per sample, of any length.

        Raises:
            ModelError: chat rows without a template, or a template that cannot render them.
        """
        examples: list[Example | None] = [None] * len(samples)
        chats: list[int] = []
        for index, sample in enumerate(samples):
            if sample.text is not None:
                examples[index] = self._text(sample.text)
            elif sample.plain and not self._tokenizer.has_chat_template:
                examples[index] = self._plain(sample)
            else:
                chats.append(index)
        for index, example in zip(chats, self._chats([samples[i] for i in chats]), strict=True):
            examples[index] = example
        return [self._finished(example) for example in examples if example is not None]

    def encode_prompt(self, sample: Sample) -> list[int]:
        """Ids of a conversation or plain prompt that an answer is to follow, as they are in training.

        Raises:
            ModelError: a conversation without a template, or a template that cannot render it.
        """
        if sample.plain and not self._tokenizer.has_chat_template:
            return self._tokenizer.document_start + self._tokenizer.encode(sample.messages[0]["content"])
        chat = rendered_prompt(self._tokenizer, sample)
        encoded = self._tokenizer.encode_batch([chat.guarded])[0]
        return [int(i) for i in self._kept_literal(sample, chat, encoded).token_ids]

    def _chats(self, samples: Sequence[Sample]) -> list[Example]:
        rendered = [rendered_chat(self._tokenizer, sample) for sample in samples]
        encoded = self._tokenizer.encode_batch([chat.guarded for chat in rendered])
        return [self._chat(*both) for both in zip(samples, rendered, encoded, strict=True)]

    def _chat(self, sample: Sample, chat: RenderedChat, encoded: EncodedText) -> Example:
        encoded = self._kept_literal(sample, chat, encoded)
        mask = np.zeros(len(encoded.token_ids), np.uint8)
        for start, end in chat.trained:
            mask[(encoded.starts >= start) & (encoded.starts < end)] = 1
        example = Example(encoded.token_ids, mask)
        return self._with_eos(example) if chat.append_eos else example

    def _kept_literal(self, sample: Sample, chat: RenderedChat, guarded: EncodedText) -> EncodedText:
        """With nothing held back, `guarded`; else what lies between the template's own control tokens is
        encoded apart, with no control token in it.
        """
        if chat.text == chat.guarded:
            return guarded
        again = self._between_control_tokens(chat.guarded, chat.guarded)
        if not np.array_equal(again.token_ids, guarded.token_ids):
            raise DataError(
                problem(
                    "contents without names of control tokens, for this tokenizer",
                    "one that cannot be kept as plain text",
                    "Remove the name from the row's contents.",
                    where=sample.where,
                )
            )
        return self._between_control_tokens(chat.text, chat.guarded)

    def _between_control_tokens(self, text: str, guarded: str) -> EncodedText:
        pattern = self._tokenizer.control_pattern
        pieces: list[EncodedText] = []
        at = 0
        for match in pattern.finditer(guarded) if pattern else ():
            pieces.append(_moved(self._tokenizer.encode_literal(text[at : match.start()]), at))
            pieces.append(_moved(self._tokenizer.encode_batch([match.group()])[0], match.start()))
            at = match.end()
        pieces.append(_moved(self._tokenizer.encode_literal(text[at:]), at))
        return EncodedText(
            np.concatenate([piece.token_ids for piece in pieces]),
            np.concatenate([piece.starts for piece in pieces]),
        )

    def _text(self, text: str) -> Example:
        ids = np.array(self._tokenizer.document_start + self._tokenizer.encode(text), np.int32)
        return self._with_eos(Example(ids, np.ones(len(ids), np.uint8)))

    def _plain(self, sample: Sample) -> Example:
        """Prompt and completion are tokenised apart, as they are when an answer is generated."""
        prompt, completion = (self._tokenizer.encode(m["content"]) for m in sample.messages)
        prompt = self._tokenizer.document_start + prompt
        mask = np.repeat(np.array([0, 1], np.uint8), [len(prompt), len(completion)])
        return self._with_eos(Example(np.array(prompt + completion, np.int32), mask))

    def _with_eos(self, example: Example) -> Example:
        ids = np.append(example.token_ids, np.int32(self._tokenizer.eos_token_id))
        return Example(ids, np.append(example.loss_mask, np.uint8(1)))

    def _finished(self, example: Example) -> Example:
        """Nothing predicts the first token."""
        mask = example.loss_mask if self._mask_prompt else np.ones_like(example.loss_mask)
        mask[:1] = 0
        return Example(example.token_ids, mask)


class Cut(NamedTuple):
    """An example that fits, and what became of it."""

    example: Example
    truncated: bool
    masked: bool  # no target even before it was cut

    @property
    def usable(self) -> bool:
        """Whether anything is left to learn."""
        return bool(self.example.loss_mask.any())


def cut(example: Example, max_seq_len: int) -> Cut:
    """Truncates an example on the right to `max_seq_len` tokens."""
    masked = not example.loss_mask.any()
    if len(example.token_ids) <= max_seq_len:
        return Cut(example, False, masked)
    short = Example(example.token_ids[:max_seq_len], example.loss_mask[:max_seq_len])
    return Cut(short, True, masked)


def _moved(encoded: EncodedText, distance: int) -> EncodedText:
    return EncodedText(encoded.token_ids, encoded.starts + distance)
