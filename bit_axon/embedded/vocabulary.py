"""The embedded model's tokenizer: a byte-level BPE trained on the generator's own text."""

import json
from collections.abc import Iterator
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from bit_axon.embedded import demo, sources

VOCABULARY_SIZE: Final = 1024
PAD_TOKEN: Final = "<|endoftext|>"
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
# Qwen2's own pre-tokenization (words with the sign before them, digits one by one, other signs, line ends):
# transformers builds a `qwen2` tokenizer from vocabulary and merges and applies this, whatever the file says.
WORD_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
_TRAINING_ROWS: Final = 20_000


def train_tokenizer() -> Tokenizer:
    """Train the BPE on pretraining and demo text; the same text gives the same merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD_TOKEN, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_text(), trainer)
    return tokenizer


def tokenizer_config() -> str:
    """The text of tokenizer_config.json: special tokens and the ChatML template, no default system turn."""
    config = {
        "add_bos_token": False,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "model_max_length": 2048,
        "pad_token": PAD_TOKEN,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    return json.dumps(config, indent=2) + "\n"


def _text() -> Iterator[str]:
    for role in ("system", "user", "assistant", "tool"):
        yield from [f"{role}\n"] * _TRAINING_ROWS
    for row in sources.read(f"pretrain/train?rows={_TRAINING_ROWS}"):
        yield row["prompt"]
        yield row["completion"]
    for row in demo.rows("demo/train"):
        yield from row["chosen"].splitlines()  # a sign and a line end never become one token
