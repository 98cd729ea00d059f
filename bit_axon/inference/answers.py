"""Greedy answers to prompts, many at a time."""

from collections.abc import Sequence

import mlx.nn as nn
from mlx_lm import batch_generate
from mlx_lm.tokenizer_utils import TokenizerWrapper

from bit_axon.data.loading import PromptRow, prompt_ids
from bit_axon.models.modes import evaluating
from bit_axon.tokenizer import QwenTokenizerWrapper


def greedy_answers(
    model: nn.Module,
    tokenizer: QwenTokenizerWrapper,
    prompts: Sequence[PromptRow],
    *,
    max_new_tokens: int,
) -> list[str]:
    """One answer per prompt, without the end token and surrounding space.

    Nothing is sampled, so the answers are the same every time.
    """
    if not prompts:
        return []
    encoded = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    wrapped = TokenizerWrapper(tokenizer.hf, eos_token_ids=sorted(tokenizer.stop_token_ids))
    with evaluating(model):
        response = batch_generate(model, wrapped, encoded, max_tokens=max_new_tokens)
    return [text.strip() for text in response.texts]
