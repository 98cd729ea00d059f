"""Families about numbers: order, comparison, small sums, sequences."""

from random import Random
from typing import Final

from bit_axon.embedded.draft import Draft, joined, near, swapped
from bit_axon.embedded.words import NAMES, THINGS

DIGITS: Final = range(10)


def sorting(rng: Random) -> Draft:
    """Put three numbers in rising order."""
    numbers = rng.sample(DIGITS, 3)
    text = joined(numbers)
    prompt = rng.choice(
        (f"Sort these numbers: {text}", f"Put in order: {text}", f"Arrange from small to large: {text}")
    )
    right = sorted(numbers)
    return Draft(prompt, joined(right), joined(swapped(rng, right)))


def largest(rng: Random) -> Draft:
    """Find the largest of three numbers."""
    numbers = rng.sample(DIGITS, 3)
    text = joined(numbers)
    prompt = rng.choice(
        (f"Which number is the largest: {text}?", f"Find the maximum of {text}", f"Pick the biggest: {text}")
    )
    low, _, high = sorted(numbers)
    return Draft(prompt, str(high), str(low))


def smallest(rng: Random) -> Draft:
    """Find the smallest of three numbers."""
    numbers = rng.sample(DIGITS, 3)
    text = joined(numbers)
    prompt = rng.choice(
        (f"Which number is the smallest: {text}?", f"Find the minimum of {text}", f"Pick the least: {text}")
    )
    low, _, high = sorted(numbers)
    return Draft(prompt, str(low), str(high))


def comparing(rng: Random) -> Draft:
    """Name the one of two people who has more, or fewer, of something."""
    (one, other), (many, few) = rng.sample(NAMES, 2), sorted(rng.sample(range(2, 10), 2), reverse=True)
    things, more = rng.choice(THINGS) + "s", rng.random() < 0.5
    one_has, other_has = (many, few) if rng.random() < 0.5 else (few, many)
    prompt = f"{one} has {one_has} {things}, {other} has {other_has}. Who has {'more' if more else 'fewer'}?"
    answers = (one, other) if (one_has > other_has) == more else (other, one)
    return Draft(prompt, *answers)


def adding(rng: Random) -> Draft:
    """Add a number below ten to one up to twenty."""
    left, right = rng.randint(1, 20), rng.randint(1, 9)
    prompt = rng.choice((f"What is {left} plus {right}?", f"Add {left} and {right}", f"{left} + {right} ="))
    return Draft(prompt, str(left + right), str(near(rng, left + right)))


def subtracting(rng: Random) -> Draft:
    """Take a number below ten from one between ten and twenty."""
    left, right = rng.randint(10, 20), rng.randint(1, 9)
    prompt = rng.choice(
        (f"What is {left} minus {right}?", f"Take {right} from {left}", f"{left} - {right} =")
    )
    return Draft(prompt, str(left - right), str(near(rng, left - right)))


def sequence(rng: Random) -> Draft:
    """Continue a sequence with a constant step of 1, 2, 3, 5 or 10."""
    start, step = rng.randint(1, 20), rng.choice((1, 2, 3, 5, 10))
    terms = [start + step * place for place in range(4)]
    text = joined(terms[:3])
    prompt = rng.choice(
        (f"What comes next: {text}?", f"Continue the sequence: {text}", f"Next number after {text}")
    )
    return Draft(prompt, str(terms[3]), str(near(rng, terms[3])))


def parity(rng: Random) -> Draft:
    """Find the one even number among three."""
    right, *odd = 2 * rng.randint(5, 49), *(2 * half + 1 for half in rng.sample(range(5, 50), 2))
    numbers = [right, *odd]
    rng.shuffle(numbers)
    text = joined(numbers)
    prompt = rng.choice((f"Which number is even: {text}?", f"Find the even number: {text}"))
    return Draft(prompt, str(right), str(odd[0]))
