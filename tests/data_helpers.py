"""What the data tests share: the embedded tokenizer, variants of it, and masks as text."""

import json
import shutil
from pathlib import Path
from typing import Any

from bit_axon.data.encoding import Encoder
from bit_axon.data.examples import Example
from bit_axon.data.samples import Sample
from bit_axon.embedded.sources import nano_path
from bit_axon.tokenizer import QwenTokenizerWrapper

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"

# Qwen's way: a system prompt of its own where the conversation has none.
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Reasoning is dropped from all answers but the last, so an earlier prefix is no prefix of the whole.
DROPS_REASONING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] | trim }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# No control token anywhere, and no way to open a turn.
PLAIN_WORDS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
HIDES_ANSWERS = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"


def nano(chat_template: str | None = None) -> QwenTokenizerWrapper:
    """The embedded tokenizer, on request with another template."""
    return QwenTokenizerWrapper(nano_path(), chat_template=chat_template)


def without_template(folder: Path) -> QwenTokenizerWrapper:
    """The embedded tokenizer with its chat template taken out."""
    shutil.copy(nano_path() / "tokenizer.json", folder)
    config = json.loads((nano_path() / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return QwenTokenizerWrapper(folder)


def chat(*turns: tuple[str, str]) -> tuple[dict[str, Any], ...]:
    """Messages from `(role, content)`."""
    return tuple({"role": role, "content": content} for role, content in turns)


def encoded(tokenizer: QwenTokenizerWrapper, sample: Sample, mask_prompt: bool = True) -> Example:
    return Encoder(tokenizer, mask_prompt=mask_prompt).encode([sample])[0]


def trained_texts(tokenizer: QwenTokenizerWrapper, example: Example) -> list[str]:
    """The text of each run of targets."""
    runs: list[list[int]] = []
    before = 0
    for token, flag in zip(example.token_ids.tolist(), example.loss_mask.tolist(), strict=True):
        if flag and not before:
            runs.append([])
        if flag:
            runs[-1].append(token)
        before = flag
    return [tokenizer.decode(run) for run in runs]


def write_rows(path: Path, rows: list[Any]) -> Path:
    """A JSON lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
