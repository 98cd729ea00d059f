"""The tokenizer wrapper."""

from pathlib import Path

import pytest
from data_helpers import DEFAULT_SYSTEM, PLAIN_WORDS, SHARED, chat, nano, without_template

from bit_axon.embedded.sources import nano_path
from bit_axon.errors import ModelError
from bit_axon.tokenizer import QwenTokenizerWrapper


def test_text_survives_a_round_trip() -> None:
    tokenizer = nano()
    for text in ("How many apples?", "a\n\nb  c", "naïve 日本 🙂"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_of_the_embedded_tokenizer() -> None:
    tokenizer = nano()
    assert tokenizer.decode([tokenizer.eos_token_id]) == "<|im_end|>"
    assert tokenizer.decode([tokenizer.pad_token_id]) == "<|endoftext|>"
    assert tokenizer.end_of_turn_id == tokenizer.eos_token_id
    assert tokenizer.stop_token_ids == {tokenizer.eos_token_id}
    assert tokenizer.vocab_size == len(tokenizer.hf)
    assert tokenizer.document_start == []


def test_render_uses_the_template() -> None:
    question = chat(("user", "Hi"))
    assert (
        nano().render(question, add_generation_prompt=True).endswith("Hi<|im_end|>\n<|im_start|>assistant\n")
    )
    assert nano(DEFAULT_SYSTEM).render(question).startswith("<|im_start|>system\nBe kind.")


def test_control_tokens_are_read_in_text_but_not_literally() -> None:
    tokenizer = nano()
    assert len(tokenizer.encode("<|im_end|>")) == 1
    literal = tokenizer.encode_literal("<|im_end|>")
    assert len(literal.token_ids) > 1
    assert tokenizer.decode(literal.token_ids.tolist()) == "<|im_end|>"
    assert len(tokenizer.encode("<|im_end|>")) == 1


def test_template_from_a_file_is_the_same_as_its_text(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(DEFAULT_SYSTEM)
    assert nano(str(file)).digest == nano(DEFAULT_SYSTEM).digest != nano().digest


def test_missing_template_file_is_named() -> None:
    with pytest.raises(ModelError, match=r"model\.chat_template.*'nowhere\.jinja'"):
        nano("nowhere.jinja")


def test_no_template_is_an_error_only_when_messages_are_rendered(tmp_path: Path) -> None:
    tokenizer = without_template(tmp_path)
    assert not tokenizer.has_chat_template
    assert tokenizer.end_of_turn_id is None
    assert tokenizer.encode("text")
    with pytest.raises(ModelError, match=r"wanted a chat template.*model\.chat_template=FILE_OR_STRING"):
        tokenizer.render(chat(("user", "Hi")))


def test_template_that_refuses_says_why() -> None:
    template = "{% for m in messages %}{{ raise_exception('no such role: ' + m.role) }}{% endfor %}"
    with pytest.raises(ModelError, match=r"roles user: no such role: user"):
        nano(template).render(chat(("user", "Hi")))


def test_template_without_generation_prompt_is_noticed() -> None:
    assert nano().has_generation_prompt
    assert not nano(PLAIN_WORDS).has_generation_prompt


def test_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"wanted a tokenizer in .*tokenizer\.json"):
        QwenTokenizerWrapper(tmp_path)


def test_digest_depends_on_content_not_on_place(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((nano_path() / name).read_bytes())
    assert QwenTokenizerWrapper(tmp_path).digest == nano().digest


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_qwen_tokenizer() -> None:
    tokenizer = QwenTokenizerWrapper(SHARED / "qwen2.5_tokenizer")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.vocab_size) == (151645, 151643, 151646)
    assert tokenizer.render(chat(("user", "Hi"))).startswith("<|im_start|>system\nYou are Qwen")
