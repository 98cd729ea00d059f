"""The rows that are trained on: files, the texts in them, and fixed batches of equal lengths."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from bit_axon.data.examples import Example
from bit_axon.data.loading import load_examples
from bit_axon.data.sources import Source
from bit_axon.embedded import sources as embedded
from bit_axon.errors import DataError, problem
from bit_axon.files import outputs_dir, project_root, write_atomic, write_json_atomic
from bit_axon.tokenizer import QwenTokenizerWrapper

Row = Mapping[str, Any]

_SHARED = project_root().parent / "shared" / "data"
_MEASURED_ROWS = 2000  # of which a batch of equal lengths is chosen
_STEP = 32  # tokens; lengths that every contestant computes without padding of its own


@dataclass(frozen=True)
class FixedBatch:
    """One batch in the forms the contestants take."""

    rows: Path  # JSONL of chat rows
    tokens: Path  # JSON of token ids and loss masks
    lengths: tuple[int, ...]


def default_sft() -> Path:
    """GSM8K beside the project where it is, else the embedded demo as chat rows."""
    shared = _SHARED / "gsm8k_sft_train.jsonl"
    if shared.is_file():
        return shared
    rows = [chat(row["prompt"], row["chosen"]) for row in embedded.read("demo/train")]
    return write_rows(outputs_dir() / "benchmarks" / "data" / "demo_sft.jsonl", rows)


def default_preferences() -> Path:
    """GSM8K preferences beside the project where they are, else the embedded demo."""
    shared = _SHARED / "gsm8k_preference_train.jsonl"
    path = embedded.path_of("demo/train")
    return shared if shared.is_file() or path is None else path


def chat(question: str, answer: str) -> dict[str, Any]:
    """A chat row of two turns."""
    turns = (("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def write_rows(path: Path, rows: Iterable[Row]) -> Path:
    """Writes JSONL."""
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def read_rows(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """The rows of a JSONL file.

    Raises:
        DataError: there is no such file, or a line is no JSON object.
    """
    if not path.is_file():
        raise DataError(problem("a JSONL file of rows", f"'{path}', which is not there", "Correct the path."))
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if limit is not None and len(rows) >= limit:
                break
            if line.strip():
                rows.append(_parsed(line, f"{path}:{number}"))
    return rows


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(problem("a JSON object", str(error), "Correct the line.", where=where)) from None
    if not isinstance(row, dict):
        raise DataError(problem("a JSON object", type(row).__name__, "Correct the line.", where=where))
    return row


def question_and_answer(row: Row, where: str) -> tuple[str, str]:
    """The last question of a chat row and its answer.

    Raises:
        DataError: the row is no chat that ends with an answer.
    """
    messages = row.get("messages")
    if not isinstance(messages, list) or len(messages) < 2 or messages[-1].get("role") != "assistant":
        raise DataError(
            problem(
                "chat rows: {'messages': [..., {'role': 'assistant', ...}]}",
                f"the keys {', '.join(row)}",
                "Give such a file to --sft.",
                where=where,
            )
        )
    return str(messages[-2]["content"]), str(messages[-1]["content"])


def median_batch(path: Path, tokenizer: QwenTokenizerWrapper, count: int, target: Path) -> FixedBatch:
    """`count` rows of one length near the median, a multiple of 32 where there are enough such rows."""
    rows = read_rows(path, _MEASURED_ROWS)
    lengths = np.array([token_count(row, tokenizer) for row in rows])
    distance = np.abs(lengths - np.median(lengths))
    even = [length for length in np.unique(lengths) if length % _STEP == 0]
    even = [length for length in even if int((lengths == length).sum()) >= count]
    if even:
        best = min(even, key=lambda length: abs(length - float(np.median(lengths))))
        chosen = np.flatnonzero(lengths == best)[:count]
    else:
        chosen = np.argsort(distance, kind="stable")[:count]
    return _saved([rows[index] for index in chosen], tokenizer, target)


def long_batch(
    path: Path, tokenizer: QwenTokenizerWrapper, length: int, count: int, target: Path
) -> FixedBatch:
    """`count` rows of nearly `length` tokens, never more: questions joined, and answers joined."""
    pairs = [question_and_answer(row, str(path)) for row in read_rows(path, _MEASURED_ROWS)]
    stream = cycle(pairs)
    return _saved([_joined(stream, tokenizer, length) for _ in range(count)], tokenizer, target)


def _joined(pairs: Iterable[tuple[str, str]], tokenizer: QwenTokenizerWrapper, length: int) -> dict[str, Any]:
    questions: list[str] = []
    answers: list[str] = []
    for question, answer in pairs:
        questions.append(question)
        answers.append(answer)
        if token_count(chat("\n".join(questions), "\n".join(answers)), tokenizer) >= length:
            break
    return _shortened("\n".join(questions), "\n".join(answers), tokenizer, length)


def _shortened(question: str, answer: str, tokenizer: QwenTokenizerWrapper, length: int) -> dict[str, Any]:
    """Cuts question and answer in proportion; the longest form that is not above `length`."""
    low, high = 1, len(question) + len(answer)  # characters kept in both
    share = len(question) / high
    while low < high:
        middle = (low + high + 1) // 2
        cut = chat(question[: int(middle * share) or 1], answer[: middle - int(middle * share)] or ".")
        low, high = (middle, high) if token_count(cut, tokenizer) <= length else (low, middle - 1)
    return chat(question[: int(low * share) or 1], answer[: low - int(low * share)] or ".")


def token_count(row: Row, tokenizer: QwenTokenizerWrapper) -> int:
    """Tokens of a chat row as the template renders it."""
    return len(tokenizer.hf.apply_chat_template(list(row["messages"]), tokenize=True, return_dict=False))


def _saved(rows: Sequence[Row], tokenizer: QwenTokenizerWrapper, target: Path) -> FixedBatch:
    path = write_rows(target.with_suffix(".jsonl"), rows)
    encoded = load_examples(
        [Source(str(path))],
        kind="tokens",
        format="auto",
        tokenizer=tokenizer,
        max_seq_len=4096,
        mask_prompt=True,
        cache_dir=None,
        seed=0,
    )
    examples = [example for example in encoded.examples if isinstance(example, Example)]
    values = [{"token_ids": e.token_ids.tolist(), "loss_mask": e.loss_mask.tolist()} for e in examples]
    tokens = target.with_suffix(".tokens.json")
    write_json_atomic(tokens, {"rows": values})
    return FixedBatch(path, tokens, tuple(len(e.token_ids) for e in examples))
