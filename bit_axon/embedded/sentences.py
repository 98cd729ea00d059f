"""Families about whole sentences: word problems, dates, extraction, rewriting."""

from random import Random

from bit_axon.embedded.draft import Draft, near
from bit_axon.embedded.words import COLOURS, DAYS, FRUITS, NAMES, PLACES, THINGS, VERBS


def story(rng: Random) -> Draft:
    """A word problem: someone gets, or loses, a few pieces of fruit."""
    name, fruits = rng.choice(NAMES), rng.choice(FRUITS) + "s"
    gains = rng.random() < 0.5
    change = rng.randint(2, 6)
    owned = rng.randint(2, 9) if gains else change + rng.randint(2, 9)
    event = rng.choice(("gets", "finds", "buys")) if gains else rng.choice(("eats", "loses", "sells"))
    left = owned + change if gains else owned - change
    question = rng.choice((f"How many {fruits} does {name} have now?", "How many are there now?"))
    prompt = f"{name} has {owned} {fruits} and {event} {change}. {question}"
    return Draft(prompt, f"{left} {fruits}", f"{near(rng, left)} {fruits}")


def calendar(rng: Random) -> Draft:
    """Name the day a few days after another."""
    today, later, name = rng.randrange(7), rng.randint(1, 5), rng.choice(NAMES)
    unit = "day" if later == 1 else "days"
    prompt = rng.choice(
        (
            f"{name} leaves on {DAYS[today]} and is back {later} {unit} later. Which day is that?",
            f"{name} starts on {DAYS[today]} and ends after {later} {unit}. On which day?",
        )
    )
    right = (today + later) % 7
    return Draft(prompt, DAYS[right], DAYS[(right + rng.choice((-1, 1))) % 7])


def _purchase(rng: Random) -> tuple[str, str, str, str, str]:
    """A sentence about a purchase, with its buyer, price, thing and place."""
    name, coins, where = rng.choice(NAMES), str(rng.randint(10, 98)), rng.choice(PLACES)
    thing = f"{rng.choice(COLOURS)} {rng.choice(THINGS)}"
    sentence = rng.choice(
        (
            f"{name} paid {coins} coins for a {thing} at the {where}.",
            f"At the {where} a {thing} was sold to {name} for {coins} coins.",
        )
    )
    return sentence, name, coins, thing, where


def price(rng: Random) -> Draft:
    """Take the price out of a sentence."""
    sentence, _, coins, _, _ = _purchase(rng)
    question = rng.choice(("What was the price?", "Which number is in the text?", "How many coins?"))
    return Draft(f"{sentence} {question}", coins, str(near(rng, int(coins))))


def person(rng: Random) -> Draft:
    """Take the person out of a sentence."""
    sentence, buyer, _, _, _ = _purchase(rng)
    question = rng.choice(("Who was it?", "Who is named?", "Which person?"))
    return Draft(f"{sentence} {question}", buyer, rng.choice([name for name in NAMES if name != buyer]))


def place(rng: Random) -> Draft:
    """Take the place out of a sentence."""
    sentence, _, _, thing, where = _purchase(rng)
    question = rng.choice(("Where was it?", "Which place is named?"))
    return Draft(
        f"{sentence} {question}", where, rng.choice((thing, *(other for other in PLACES if other != where)))
    )


def replacing(rng: Random) -> Draft:
    """Put one colour in place of another."""
    old, new = rng.sample(COLOURS, 2)
    thing, where = rng.choice(THINGS), rng.choice(PLACES)
    phrase = rng.choice((f"a {{}} {thing} in the {where}", f"the {{}} {thing} at the {where}"))
    before, after = phrase.format(old), phrase.format(new)
    prompt = rng.choice((f"Replace {old} with {new}: {before}", f"Say {new} and not {old}: {before}"))
    return Draft(prompt, after, before)


def tense(rng: Random) -> Draft:
    """Rewrite a sentence in the past tense."""
    name, where = rng.choice(NAMES), rng.choice(PLACES)
    now, then = rng.choice(VERBS)
    text = f"{name} {now} the {where}."
    prompt = rng.choice((f"Write in the past: {text}", f"Tell it as if it was yesterday: {text}"))
    return Draft(prompt, f"{name} {then} the {where}.", text)
