"""Greedy answers: mlx-lm's own, in steps between which others may act."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.nn as nn
import pytest
from data_helpers import chat
from mlx_lm import batch_generate
from mlx_lm.generate import BatchGenerator

from bit_axon.backend import mx
from bit_axon.data.loading import PromptRow, prompt_ids
from bit_axon.errors import ThermalShutdownError
from bit_axon.evaluation.accuracy import answer_prompts
from bit_axon.inference.answers import greedy_answers
from bit_axon.models.loading import load_base
from bit_axon.schema import ModelConfig
from bit_axon.tokenizer import QwenTokenizerWrapper

LENGTH = 12
LONG = 700  # repetitions; more ids than mlx-lm reads at once

Base = tuple[nn.Module, QwenTokenizerWrapper]
Stop = Callable[[], None]


@pytest.fixture
def base(tiny_model: Path) -> Base:
    return load_base(ModelConfig(path=str(tiny_model)), seed=0).model, QwenTokenizerWrapper(tiny_model)


def rows(count: int, *, long: bool = False) -> list[PromptRow]:
    """Questions of different lengths; `long` makes the last one more than is read at once."""
    times = [1 + number % 6 for number in range(count)]
    times[-1:] = [LONG] if long else times[-1:]
    return [PromptRow(list(chat(("user", f"Add {n} " * size))), "") for n, size in enumerate(times)]


@dataclass
class Undecoded:
    """What mlx-lm asks of a tokenizer; keeps the ids."""

    eos_token_ids: list[int]
    answers: list[list[int]] = field(default_factory=list)

    def decode(self, ids: list[int]) -> str:
        self.answers.append(ids)
        return ""


def by_mlx_lm(base: Base, prompts: list[PromptRow], stops: frozenset[int]) -> list[list[int]]:
    model, tokenizer = base
    undecoded = Undecoded(sorted(stops))
    model.eval()
    batch_generate(model, undecoded, [prompt_ids(tokenizer, p) for p in prompts], max_tokens=LENGTH)
    return undecoded.answers


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The ids that answers are decoded from."""
    ids: list[list[int]] = []
    decode = QwenTokenizerWrapper.decode

    def recorded(self: Any, answer: list[int]) -> str:
        ids.append(answer)
        return decode(self, answer)

    monkeypatch.setattr(QwenTokenizerWrapper, "decode", recorded)
    return ids


@pytest.mark.parametrize(("count", "long"), [(1, False), (45, False), (2, True)])
def test_answers_are_those_of_mlx_lm_token_for_token(
    base: Base, said: list[list[int]], monkeypatch: pytest.MonkeyPatch, count: int, long: bool
) -> None:
    prompts = rows(count, long=long)  # 45 are more than are read, and more than are answered, together
    unstopped = by_mlx_lm(base, prompts, frozenset())
    stops = frozenset({unstopped[0][5], unstopped[-1][0]})  # ids that do occur, one at the very beginning
    expected = by_mlx_lm(base, prompts, stops)
    assert [] in expected and (count < 45 or LENGTH in map(len, expected))
    monkeypatch.setattr(base[1], "stop_token_ids", stops)
    texts = greedy_answers(*base, prompts, max_new_tokens=LENGTH)
    assert said == expected
    assert texts == [base[1].hf.decode(answer).strip() for answer in expected]


def test_a_call_before_each_token_and_each_part_of_a_prompt(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base[1], "stop_token_ids", frozenset())
    forward: list[int] = []  # how many ids the model was given at a time, 0 for a call in between
    model = base[0]
    run = type(model).__call__

    def watched(self: Any, inputs: mx.array, *arguments: Any, **options: Any) -> mx.array:
        forward.append(inputs.shape[1])
        return run(self, inputs, *arguments, **options)

    monkeypatch.setattr(type(model), "__call__", watched)
    for prompts, parts in ((rows(2), 1), (rows(1, long=True), 2)):
        forward.clear()
        greedy_answers(*base, prompts, max_new_tokens=LENGTH, between=lambda: forward.append(0))
        # One run of the model looks ahead at what follows the last token.
        assert [size > 1 for size in forward[1::2]] == [True] * parts + [False] * (LENGTH + 1)
        assert not any(forward[::2]) and len(forward) % 2 == 0
    forward.clear()  # some are read while others are answered: a part, first tokens and next tokens at most
    greedy_answers(*base, rows(12), max_new_tokens=LENGTH, between=lambda: forward.append(0))
    assert max(map(len, "".join("." if size else " " for size in forward).split())) <= 3
    assert forward.count(0) > LENGTH


def stop_after(calls: int) -> Stop:
    left = iter(range(calls))

    def stop() -> None:
        if next(left, None) is None:
            raise ThermalShutdownError("too hot")

    return stop


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("calls", [0, 1, 2, 9])
def test_a_stop_leaves_nothing_behind(base: Base, calls: int, training: bool) -> None:
    model, prompts = base[0], rows(12)
    model.train(training)
    whole = greedy_answers(*base, prompts, max_new_tokens=LENGTH)
    mx.synchronize()
    before = mx.get_active_memory()
    stop = stop_after(calls)
    modes: list[bool] = []
    with pytest.raises(ThermalShutdownError) as stopped:
        greedy_answers(
            *base, prompts, max_new_tokens=LENGTH, between=lambda: (modes.append(model.training), stop())[1]
        )
    assert modes == [False] * (calls + 1)
    assert stopped.tb is not None  # it is still known where it happened, and yet:
    assert not [thing for thing in gc.get_objects() if isinstance(thing, BatchGenerator)]
    mx.synchronize()
    assert mx.get_active_memory() <= before + 4096
    assert model.training == training
    assert greedy_answers(*base, prompts, max_new_tokens=LENGTH) == whole


def test_answered_rows_are_asked_about_too(base: Base) -> None:
    calls: list[None] = []
    answers = answer_prompts(*base, rows(3), max_new_tokens=4, between=lambda: calls.append(None))
    assert len(answers) == 3 and len(calls) >= 4
    with pytest.raises(ThermalShutdownError):
        answer_prompts(*base, rows(3), max_new_tokens=4, between=stop_after(2))


def test_no_prompt_no_call(base: Base) -> None:
    assert greedy_answers(*base, [], max_new_tokens=4, between=stop_after(0)) == []
