"""A byte-level BPE of the benchmark's own text, in Qwen2's form, with a ChatML template."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from bit_axon.embedded.vocabulary import CHAT_TEMPLATE, PAD_TOKEN, TURN_END, TURN_START, WORD_PATTERN

_ROLES = ("system\n", "user\n", "assistant\n")
_MIN_FREQUENCY = 2  # a word that occurs once is no word of the vocabulary


def save_tokenizer(texts: list[str], vocab_size: int, folder: Path) -> dict[str, int]:
    """Trains and writes tokenizer.json and tokenizer_config.json; returns the ids of `pad` and `end`.

    The same texts give the same files. There may be fewer tokens than `vocab_size` when the text yields no
    more.
    """
    tokenizer = _trained(texts, vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "add_bos_token": False,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "model_max_length": 4096,
        "pad_token": PAD_TOKEN,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    vocabulary = tokenizer.get_vocab()
    return {"pad": vocabulary[PAD_TOKEN], "end": vocabulary[TURN_END]}


def _trained(texts: list[str], vocab_size: int) -> Tokenizer:
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
        vocab_size=vocab_size,
        min_frequency=_MIN_FREQUENCY,
        special_tokens=[PAD_TOKEN, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *_ROLES * _MIN_FREQUENCY], trainer)
    return tokenizer
