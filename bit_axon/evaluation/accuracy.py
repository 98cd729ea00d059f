"""Exact match of greedy answers with the reference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.nn as nn

from bit_axon.data.loading import PromptRow
from bit_axon.inference.answers import greedy_answers
from bit_axon.tokenizer import QwenTokenizerWrapper


@dataclass(frozen=True)
class Answer:
    """What the model said to one held-out prompt."""

    prompt: str  # the last user message
    reference: str
    answer: str

    @property
    def correct(self) -> bool:
        """Equal but for surrounding space."""
        return self.answer.strip() == self.reference.strip()


def answer_prompts(
    model: nn.Module,
    tokenizer: QwenTokenizerWrapper,
    rows: Sequence[PromptRow],
    *,
    max_new_tokens: int,
    between: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """Greedy answers to the rows' prompts, in order; `between` is called before each step of the device."""
    texts = greedy_answers(model, tokenizer, rows, max_new_tokens=max_new_tokens, between=between)
    return [
        Answer(str(row.messages[-1]["content"]), row.reference, text)
        for row, text in zip(rows, texts, strict=True)
    ]


def accuracy(answers: Sequence[Answer]) -> float:
    """Share of exact matches, 0 to 1."""
    return sum(answer.correct for answer in answers) / len(answers)
