"""Greedy answers to prompts, many at a time."""

from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Self

import mlx.nn as nn
from mlx_lm.generate import BatchGenerator

from bit_axon.data.loading import PromptRow, prompt_ids
from bit_axon.models.modes import evaluating
from bit_axon.tokenizer import QwenTokenizerWrapper


def greedy_answers(
    model: nn.Module,
    tokenizer: QwenTokenizerWrapper,
    prompts: Sequence[PromptRow],
    *,
    max_new_tokens: int,
    between: Callable[[], None] = lambda: None,
) -> list[str]:
    """One answer per prompt, without the end token and surrounding space.

    Nothing is sampled, so the answers are the same every time.

    Args:
        model: of mlx-lm; its mode is what it was afterwards.
        tokenizer: the model's.
        prompts: any number.
        max_new_tokens: where an answer is cut off.
        between: called before each step of the device: a part of the prompts, or one more token of the
            answers under way. What it raises ends the decoding, which leaves nothing in memory.
    """
    if not prompts:
        return []
    encoded = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    with evaluating(model), _Decoding(model, encoded, tokenizer.stop_token_ids, max_new_tokens) as decoding:
        while decoding.is_unfinished:
            between()
            decoding.step()
    return [tokenizer.decode(answer).strip() for answer in decoding.answers]


class _Decoding:
    """The most likely next tokens of many prompts, step by step.

    To be used as a context manager: on leaving, the keys and values are released. An error may keep this
    object alive for long, but not what it has decoded with.

    Args:
        model: in evaluation mode.
        prompts: ids, at least one each.
        stop_token_ids: any of them ends an answer.
        max_new_tokens: so do so many tokens.

    Attributes:
        answers: ids of each prompt's answer so far.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[list[int]],
        stop_token_ids: Collection[int],
        max_new_tokens: int,
    ):
        self.answers: list[list[int]] = [[] for _ in prompts]
        stops = [[stop] for stop in sorted(stop_token_ids)]
        self._generator = BatchGenerator(model, max_tokens=max_new_tokens, stop_tokens=stops)
        self._unfinished = dict(zip(self._generator.insert(prompts), self.answers, strict=True))

    @property
    def is_unfinished(self) -> bool:
        """Whether an answer is still under way."""
        return bool(self._unfinished)

    def step(self) -> None:
        """Reads a part of the prompts, adds one token to the answers that are under way, or both."""
        _, generated = self._generator.next()
        for found in generated:
            if found.finish_reason != "stop":
                self._unfinished[found.uid].append(found.token)
            if found.finish_reason is not None:
                del self._unfinished[found.uid]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._generator.close()
        del self._generator
