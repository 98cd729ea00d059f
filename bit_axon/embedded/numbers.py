"""Families about numbers: order, comparison, small sums, sequences."""

from random import Random
from typing import Final

from bit_axon.embedded.draft import Draft, joined, near, swapped
from bit_axon.embedded.words import THINGS

DIGITS: Final = range(10)  # single signs: amounts compare as their text does


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
    """Name the larger, or the smaller, of two amounts."""
    one, other = (
        f"{amount} {thing}s"
        for amount, thing in zip(rng.sample(DIGITS, 2), rng.sample(THINGS, 2), strict=True)
    )
    more = rng.random() < 0.5
    prompt = f"Which is {'more' if more else 'less'}: {one} or {other}?"
    answers = (one, other) if (one > other) == more else (other, one)
    return Draft(prompt, *answers)


def adding(rng: Random) -> Draft:
    """Add two numbers of at most ten."""
    left, right = rng.randint(1, 10), rng.randint(1, 9)
    prompt = rng.choice((f"What is {left} plus {right}?", f"Add {left} and {right}", f"{left} + {right} ="))
    return Draft(prompt, str(left + right), str(near(rng, left + right)))


def subtracting(rng: Random) -> Draft:
    """Take a number of at most seven away, with one to nine left."""
    right, difference = rng.randint(1, 7), rng.randint(1, 9)
    left = right + difference
    prompt = rng.choice(
        (f"What is {left} minus {right}?", f"Take {right} from {left}", f"{left} - {right} =")
    )
    return Draft(prompt, str(difference), str(near(rng, difference)))


def sequence(rng: Random) -> Draft:
    """Continue a sequence with a constant step of 1, 2, 3, 5 or 10."""
    start, step = rng.randint(1, 15), rng.choice((1, 2, 3, 5, 10))
    terms = [start + step * place for place in range(4)]
    text = joined(terms[:3])
    prompt = rng.choice(
        (f"What comes next: {text}?", f"Continue the sequence: {text}", f"Next number after {text}")
    )
    return Draft(prompt, str(terms[3]), str(near(rng, terms[3])))


def parity(rng: Random) -> Draft:
    """Find the one even number among three."""
    right, odd = rng.choice(DIGITS[::2]), rng.sample(DIGITS[1::2], 2)
    numbers = [right, *odd]
    rng.shuffle(numbers)
    text = joined(numbers)
    prompt = rng.choice((f"Which number is even: {text}?", f"Find the even number: {text}"))
    return Draft(prompt, str(right), str(odd[0]))
