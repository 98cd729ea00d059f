"""Families about short lists of words and letters: count, pick, reorder, look up, rewrite."""

from random import Random

from bit_axon.embedded.draft import Draft, joined, near, swapped
from bit_axon.embedded.words import CATEGORIES, COLOURS, LETTERS, NOUNS, OPPOSITES, PLURALS


def counting(rng: Random) -> Draft:
    """Count the words of a list of two to six."""
    count = rng.randint(2, 6)
    text = joined(rng.sample(NOUNS, count))
    prompt = rng.choice(
        (f"How many words are here: {text}?", f"Count the words: {text}", f"How long is the list: {text}?")
    )
    return Draft(prompt, str(count), str(near(rng, count)))


def joining(rng: Random) -> Draft:
    """Write two words with "and" or "or" between them."""
    items, link = rng.sample(NOUNS, 2), rng.choice(("and", "or"))
    prompt = rng.choice((f'Join with "{link}": {joined(items)}', f'Put "{link}" between: {joined(items)}'))
    return Draft(prompt, f" {link} ".join(items), f" {link} ".join(reversed(items)))


def first(rng: Random) -> Draft:
    """Give the first word of a list."""
    items = rng.sample(NOUNS, rng.randint(3, 4))
    text = joined(items)
    prompt = rng.choice(
        (f"What is the first word: {text}?", f"Give the first of {text}", f"Which word comes first: {text}?")
    )
    return Draft(prompt, items[0], items[1])


def last(rng: Random) -> Draft:
    """Give the last word of a list."""
    items = rng.sample(NOUNS, rng.randint(3, 4))
    text = joined(items)
    prompt = rng.choice(
        (f"What is the last word: {text}?", f"Give the last of {text}", f"Which word comes last: {text}?")
    )
    return Draft(prompt, items[-1], items[-2])


def reversing(rng: Random) -> Draft:
    """Write three words in the opposite order."""
    items = rng.sample(NOUNS, 3)
    text = joined(items)
    prompt = rng.choice(
        (f"Reverse the order: {text}", f"Write from back to front: {text}", f"Turn the list around: {text}")
    )
    right = items[::-1]
    return Draft(prompt, joined(right), joined(swapped(rng, right)))


def spelling(rng: Random) -> Draft:
    """Write four spelled-out letters backwards."""
    letters = rng.sample(LETTERS, 4)
    text = joined(letters)
    prompt = rng.choice((f"Spell backwards: {text}", f"Write the letters backwards: {text}"))
    right = letters[::-1]
    return Draft(prompt, joined(right), joined(swapped(rng, right)))


def category(rng: Random) -> Draft:
    """Find the one animal, fruit, thing or colour among three words."""
    wanted, *others = rng.sample(sorted(CATEGORIES), 3)
    right, *rest = (rng.choice(CATEGORIES[kind]) for kind in (wanted, *others))
    items = [right, *rest]
    rng.shuffle(items)
    text = joined(items)
    prompt = rng.choice((f"Find the {wanted}: {text}", f"One word is a kind of {wanted}: {text}. Which one?"))
    return Draft(prompt, right, rest[0])


def opposites(rng: Random) -> Draft:
    """Give the opposites of two words."""
    pairs = [pair if rng.random() < 0.5 else pair[::-1] for pair in rng.sample(OPPOSITES, 2)]
    (one, other), (right, second) = zip(*pairs, strict=True)
    prompt = rng.choice((f"Give the opposite of {one} and of {other}", f"Write the opposites: {one} {other}"))
    return Draft(prompt, f"{right} {second}", rng.choice((f"{right} {other}", f"{second} {right}")))


def plurals(rng: Random) -> Draft:
    """Write two nouns in the plural."""
    (one, ones), (other, others) = rng.sample(PLURALS, 2)
    prompt = rng.choice((f"Write in the plural: {one} {other}", f"Make these plural: {one} {other}"))
    return Draft(prompt, f"{ones} {others}", rng.choice((f"{one} {others}", f"{ones} {other}")))


def capitals(rng: Random) -> Draft:
    """Write a colour and a noun in capital letters."""
    text = f"{rng.choice(COLOURS)} {rng.choice(NOUNS)}"
    prompt = rng.choice((f"Write in capitals: {text}", f"Make it upper case: {text}", f"Shout: {text}"))
    return Draft(prompt, text.upper(), text.title())
