"""The text of a conversation by the model's own chat template, and which characters of it are trained.

Trained are the answers and the control token that ends each; headers, separators and everybody else's
turns are not. Nothing is assumed about the template's language. An answer is found by rendering:

* the conversation before it, with an opened assistant turn, is a prefix of the whole text, and so is the
  conversation up to it: what lies between is the answer;
* where the template changes earlier turns, so that these are no prefixes, the conversation is rendered
  once more with a single unused character for this answer: where the two texts differ is the answer.

Names of control tokens inside contents are held back as unused characters of the same length while
rendering, so that places stay the same and the tokenizer can be told to read them literally.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bit_axon.data.messages import Message
from bit_axon.data.samples import Sample
from bit_axon.errors import ModelError, problem
from bit_axon.tokenizer import QwenTokenizerWrapper

_PRIVATE_USE = range(0xE000, 0xF8FF)


@dataclass(frozen=True)
class RenderedChat:
    """One conversation as text.

    Attributes:
        text: what the template made of it.
        guarded: the same, of the same length, with names of control tokens in contents held back.
        trained: character ranges `[start, end)` of the answers with their end tokens.
        append_eos: the text ends with an answer that no control token closes.
    """

    text: str
    guarded: str
    trained: tuple[tuple[int, int], ...]
    append_eos: bool


def rendered_chat(tokenizer: QwenTokenizerWrapper, sample: Sample) -> RenderedChat:
    """Renders a conversation and finds its answers.

    Raises:
        ModelError: there is no template, it refuses the conversation, or an answer cannot be found.
    """
    guard = _Guard(tokenizer, sample)
    try:
        return _ChatRenderer(tokenizer, guard.messages, guard.tools).rendered(sample.answers_from, guard)
    except ModelError as error:
        raise ModelError(f"{sample.where}: {error}") from error


def rendered_prompt(tokenizer: QwenTokenizerWrapper, sample: Sample) -> RenderedChat:
    """Renders a conversation up to where an answer is to follow; nothing in it is trained.

    Raises:
        ModelError: there is no template, or it refuses the conversation.
    """
    guard = _Guard(tokenizer, sample)
    guarded = tokenizer.render(guard.messages, add_generation_prompt=True, tools=guard.tools)
    return RenderedChat(guard.restored(guarded), guarded, (), False)


class _Guard:
    """Holds names of control tokens back: each distinct name becomes an unused character, repeated."""

    def __init__(self, tokenizer: QwenTokenizerWrapper, sample: Sample):
        self._pattern = tokenizer.control_pattern
        texts = [text for part in (*sample.messages, *sample.tools) for text in _strings(part)]
        names = set() if self._pattern is None else {m for text in texts for m in self._pattern.findall(text)}
        self._characters = dict(zip(sorted(names), _unused_characters(texts), strict=False))
        self.messages: Sequence[Message] = (
            [self._held(m) for m in sample.messages] if names else sample.messages
        )
        self.tools: Sequence[Mapping[str, Any]] = (
            [self._held(t) for t in sample.tools] if names else sample.tools
        )

    def restored(self, guarded: str) -> str:
        text = guarded
        for name, character in self._characters.items():
            text = text.replace(character * len(name), name)
        return text

    def _held(self, value: Any) -> Any:
        if isinstance(value, str) and self._pattern is not None:
            return self._pattern.sub(lambda m: self._characters[m.group()] * len(m.group()), value)
        if isinstance(value, Mapping):
            return {key: item if key == "role" else self._held(item) for key, item in value.items()}
        return [self._held(item) for item in value] if isinstance(value, list) else value


class _ChatRenderer:
    """Renders one conversation as often as its answers need."""

    def __init__(
        self, tokenizer: QwenTokenizerWrapper, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ):
        self._tokenizer = tokenizer
        self._messages = messages
        self._tools = tools
        self._text = self._render(messages)

    def rendered(self, answers_from: int, guard: _Guard) -> RenderedChat:
        """`answers_from` is the first message that may be trained."""
        text, trained, append_eos = self._text, [], False
        last = len(self._messages) - 1
        for index in range(answers_from, len(self._messages)):
            if self._messages[index]["role"] != "assistant":
                continue
            start, end, closed = self._by_prefix(index) or self._by_difference(index)
            trained.append((start, end))
            if index == last and not closed and not text[end:].strip():
                text, append_eos = text[:end], True
        return RenderedChat(guard.restored(text), text, tuple(trained), append_eos)

    def _by_prefix(self, index: int) -> tuple[int, int, bool] | None:
        """`(start, end, closed by a control token)`, or None where a prefix is none."""
        if not self._tokenizer.has_generation_prompt:
            return None
        opening = self._prefix(index, opened=True)
        whole = self._text if index + 1 == len(self._messages) else self._prefix(index + 1, opened=False)
        if opening is None or whole is None or len(whole) < len(opening):
            return None
        return self._closed(len(opening), len(whole))

    def _closed(self, start: int, end: int) -> tuple[int, int, bool]:
        """Ends the turn behind its last control token; without one, before the white space behind it."""
        pattern = self._tokenizer.control_pattern
        ends = [m.end() for m in pattern.finditer(self._text, start, end)] if pattern else []
        if ends and not self._text[ends[-1] : end].strip():
            return start, ends[-1], True
        return start, start + len(self._text[start:end].rstrip()), False

    def _prefix(self, count: int, *, opened: bool) -> str | None:
        """The first `count` messages as text, if the whole text starts so."""
        try:
            text = self._render(self._messages[:count], opened)
        except ModelError:  # some templates refuse a part of a conversation
            return None
        return text if self._text.startswith(text) else None

    def _by_difference(self, index: int) -> tuple[int, int, bool]:
        unused = next(_unused_characters([self._text]))
        other = {"role": "assistant", "content": unused}
        changed = self._render([*self._messages[:index], other, *self._messages[index + 1 :]])
        before, found, after = changed.partition(unused)
        end = len(self._text) - len(after)
        same = self._text.startswith(before) and self._text.endswith(after)
        if not (found and same and len(before) <= end):
            raise ModelError(
                problem(
                    "a chat template that shows each answer once",
                    f"one that hides or repeats the answer in message {index + 1}",
                    "Set model.chat_template=FILE_OR_STRING to a template that keeps all turns.",
                )
            )
        pattern = self._tokenizer.control_pattern
        token = re.compile(rf"\s*(?:{pattern.pattern})").match(self._text, end) if pattern else None
        return (len(before), token.end(), True) if token else (len(before), end, False)

    def _render(self, messages: Sequence[Message], opened: bool = False) -> str:
        return self._tokenizer.render(messages, add_generation_prompt=opened, tools=self._tools)


def _strings(value: Any) -> Iterator[str]:
    """Every text inside a message but its role."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key != "role":
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _unused_characters(texts: Sequence[str]) -> Iterator[str]:
    used = set().union(*texts) if texts else set()
    return (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
