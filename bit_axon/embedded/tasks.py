"""Short tasks with one right answer each: what the embedded model knows and the demo data asks.

A family is a function from a random generator to a `Task`; `FAMILIES` is the one table of them. The same
state of the generator gives the same task on every machine.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from bit_axon.embedded import numbers, sentences, wordlists
from bit_axon.embedded.draft import Draft

SPLITS: Final = ("demo/valid", "pretrain/valid", *("train",) * 6)  # a prompt's digest picks its place


@dataclass(frozen=True)
class Task:
    """A question of one family, its only right answer, and a plausible wrong one."""

    family: str
    prompt: str
    answer: str
    wrong: str


FAMILIES: Final[Mapping[str, Callable[[Random], Draft]]] = {
    "sorting": numbers.sorting,
    "largest": numbers.largest,
    "smallest": numbers.smallest,
    "comparing": numbers.comparing,
    "adding": numbers.adding,
    "subtracting": numbers.subtracting,
    "sequence": numbers.sequence,
    "parity": numbers.parity,
    "counting": wordlists.counting,
    "joining": wordlists.joining,
    "first": wordlists.first,
    "last": wordlists.last,
    "reversing": wordlists.reversing,
    "spelling": wordlists.spelling,
    "category": wordlists.category,
    "opposites": wordlists.opposites,
    "plurals": wordlists.plurals,
    "capitals": wordlists.capitals,
    "story": sentences.story,
    "calendar": sentences.calendar,
    "price": sentences.price,
    "person": sentences.person,
    "place": sentences.place,
    "replacing": sentences.replacing,
    "tense": sentences.tense,
}


# Families that take the base model longer to learn; its pretraining meets them twice as often.
HARD: Final = frozenset(
    {"adding", "subtracting", "sequence", "comparing", "parity", "story", "price", "reversing"}
)
_HARD_SHARE: Final = 2


def make(family: str, rng: Random) -> Task:
    """Draw one task of `family`; raises KeyError for a family that is not in the table."""
    prompt, answer, wrong = FAMILIES[family](rng)
    return Task(family, prompt, answer, wrong)


def stream(rng: Random, *, stress_hard: bool = False) -> Iterator[Task]:
    """Tasks of all families without end, in shuffled rounds of one task per family (two per hard one)."""
    round_families = [f for f in FAMILIES for _ in range(_HARD_SHARE if stress_hard and f in HARD else 1)]
    while True:
        rng.shuffle(round_families)
        for family in round_families:
            yield make(family, rng)


def split_of(prompt: str) -> str:
    """Which set `prompt` may appear in: a property of its text alone, so the sets never mix.

    "demo/valid" and "pretrain/valid" hold one prompt in eight each; all others are for training.
    """
    return SPLITS[hashlib.sha256(prompt.encode()).digest()[0] % len(SPLITS)]
