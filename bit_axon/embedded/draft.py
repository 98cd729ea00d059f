"""What a family function returns, and the small helpers that all of them share."""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")


class Draft(NamedTuple):
    """A prompt, its right answer and a plausible wrong one."""

    prompt: str
    answer: str
    wrong: str


def joined(items: Sequence[Item]) -> str:
    """The items in one line with single spaces: the way lists are written in every task."""
    return " ".join(str(item) for item in items)


def swapped(rng: Random, items: Sequence[Item]) -> list[Item]:
    """A copy of `items` with two neighbours exchanged: the usual mistake in an ordering."""
    place = rng.randrange(len(items) - 1)
    return [*items[:place], items[place + 1], items[place], *items[place + 2 :]]


def near(rng: Random, value: int) -> int:
    """A number close to `value` but not it, never negative: the usual mistake in a sum."""
    return value + 1 if value == 0 else value + rng.choice((-1, 1))
