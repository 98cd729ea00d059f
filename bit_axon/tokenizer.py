"""A Hugging Face tokenizer with a chat template, as bit_axon uses it."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError
from numpy.typing import NDArray
from transformers import AutoTokenizer

from bit_axon.errors import ModelError, problem

Message = Mapping[str, Any]

# A character that no text uses, in the place of an answer: what follows it is the end of the turn.
_PROBE = "\ue000"
_PROBE_MESSAGES: tuple[Message, ...] = (
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": _PROBE},
)


@dataclass(frozen=True)
class EncodedText:
    """Tokens of one text.

    Attributes:
        token_ids: `(L,)` int32.
        starts: `(L,)` int64; index of each token's first character in the text.
    """

    token_ids: NDArray[np.int32]
    starts: NDArray[np.int64]


class QwenTokenizerWrapper:
    """Any fast Hugging Face tokenizer; the name is that of the family it was first written for.

    Attributes:
        hf: the tokenizer itself, for generation.
        chat_template: the Jinja text in use, or None.
    """

    def __init__(self, path_or_id: str | Path, chat_template: str | None = None, revision: str | None = None):
        """Loads a tokenizer.

        Args:
            path_or_id: a local folder or a hub id.
            chat_template: a Jinja template, or a file of one, in place of the tokenizer's own.
            revision: branch, tag or commit of a hub id.

        Raises:
            ModelError: there is no fast tokenizer there.
        """
        self.name = str(path_or_id)
        self.hf = _load(self.name, revision)
        self.chat_template = _template_text(chat_template) if chat_template else _own_template(self.hf)

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be rendered."""
        return self.chat_template is not None

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included."""
        return max(self.hf.get_vocab().values()) + 1

    @cached_property
    def eos_token_id(self) -> int:
        """The id that ends a document; the end of a turn where the tokenizer names no other."""
        found = self.hf.eos_token_id if self.hf.eos_token_id is not None else self.end_of_turn_id
        if found is None:
            raise ModelError(
                problem(
                    "a tokenizer with an end token",
                    f"'{self.name}', which names none",
                    "Set eos_token in its tokenizer_config.json.",
                )
            )
        return int(found)

    @cached_property
    def pad_token_id(self) -> int:
        """The id that fills up short rows; `eos_token_id` where the tokenizer names no other."""
        return int(self.hf.pad_token_id) if self.hf.pad_token_id is not None else self.eos_token_id

    @cached_property
    def end_of_turn_id(self) -> int | None:
        """The control token that the chat template puts behind an answer, or None."""
        if not self.has_chat_template:
            return None
        after = self.render(_PROBE_MESSAGES).partition(_PROBE)[2]
        found = self.control_pattern.search(after) if self.control_pattern else None
        return int(self.hf.convert_tokens_to_ids(found.group())) if found else None

    @cached_property
    def document_start(self) -> list[int]:
        """Ids that the tokenizer itself puts before a document: a begin token, or nothing."""
        own = self.hf.backend_tokenizer.encode("", add_special_tokens=True).ids
        return [int(i) for i in own if i == self.hf.bos_token_id and i != self.hf.eos_token_id][:1]

    @cached_property
    def stop_token_ids(self) -> frozenset[int]:
        """Ids that end a generated answer."""
        turn = self.end_of_turn_id
        return frozenset({self.eos_token_id} if turn is None else {self.eos_token_id, turn})

    @cached_property
    def has_generation_prompt(self) -> bool:
        """Whether the template can open an assistant turn."""
        question = _PROBE_MESSAGES[:1]
        return self.render(question, add_generation_prompt=True) != self.render(question)

    @cached_property
    def control_pattern(self) -> re.Pattern[str] | None:
        """Matches the text of any control token (the tokenizer's special tokens), longest first."""
        names = sorted((t.content for t in self._added_tokens() if t.special), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names))) if names else None

    @cached_property
    def digest(self) -> str:
        """Hex digest of everything that decides the tokens of a text: vocabulary, rules, template."""
        parts = (
            self.hf.backend_tokenizer.to_str(),
            str(self.hf.eos_token_id),
            str(self.hf.pad_token_id),
            str(self.chat_template),
        )
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of a text as it stands; names of control tokens in it become control tokens."""
        return list(self.hf.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[EncodedText]:
        """Like `encode`, for many texts at once, with the place of each token."""
        encodings = self.hf.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [EncodedText(np.array(e.ids, np.int32), _starts(e.offsets)) for e in encodings]

    def encode_literal(self, text: str) -> EncodedText:
        """Ids of a text in which nothing is a control token."""
        rules = self.hf.backend_tokenizer
        before = rules.encode_special_tokens
        rules.encode_special_tokens = True
        try:
            encoding = rules.encode(text, add_special_tokens=False)
        finally:
            rules.encode_special_tokens = before
        return EncodedText(np.array(encoding.ids, np.int32), _starts(encoding.offsets))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of some ids."""
        return str(self.hf.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The text of a conversation by the chat template.

        Raises:
            ModelError: there is no template, or it refuses the conversation.
        """
        if self.chat_template is None:
            raise ModelError(
                problem(
                    "a chat template for chat rows",
                    f"tokenizer '{self.name}' without one",
                    "Set model.chat_template=FILE_OR_STRING, or use rows of text or prompt and completion.",
                )
            )
        try:
            return str(
                self.hf.apply_chat_template(
                    [dict(message) for message in messages],
                    tools=list(tools) if tools else None,
                    chat_template=self.chat_template,
                    add_generation_prompt=add_generation_prompt,
                    tokenize=False,
                )
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise ModelError(
                problem(
                    f"a conversation that the chat template of '{self.name}' can render",
                    f"roles {roles or 'none'}: {error}",
                    "Change the rows, or set model.chat_template=FILE_OR_STRING.",
                )
            ) from error

    def _added_tokens(self) -> list[Any]:
        return list(self.hf.added_tokens_decoder.values())


def _load(name: str, revision: str | None) -> Any:
    try:
        loaded = AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            problem(
                f"a tokenizer in '{name}'",
                reason,
                "Give a folder with tokenizer.json and tokenizer_config.json, or a reachable hub id.",
            )
        ) from error
    if not loaded.is_fast:
        raise ModelError(
            problem(
                "a fast tokenizer",
                f"'{name}' without tokenizer.json",
                "Convert it: AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(FOLDER).",
            )
        )
    return loaded


def _own_template(hf: Any) -> str | None:
    """The tokenizer's template; of several named ones the default."""
    own = hf.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    return None if own is None else str(own)


def _template_text(value: str) -> str:
    """A template is given as text or as the file that holds it; no file name has Jinja's braces."""
    if "{" in value or "\n" in value:
        return value
    try:
        return Path(value).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            problem(
                "model.chat_template to be a Jinja template or a file of one",
                f"'{value}' ({error})",
                "Correct the file name, or give the template's text.",
            )
        ) from error


def _starts(offsets: list[tuple[int, int]]) -> NDArray[np.int64]:
    return np.array(offsets, np.int64).reshape(-1, 2)[:, 0]
