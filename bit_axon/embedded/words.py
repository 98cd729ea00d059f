"""The small vocabulary every task is made of; the base model meets each of these words thousands of times."""

from typing import Final

NAMES: Final = (
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Greta",
    "Hugo",
    "Ida",
    "Jonas",
    "Karl",
    "Lena",
)

COLOURS: Final = ("red", "blue", "green", "black", "white", "yellow", "brown", "pink")

PLACES: Final = ("park", "market", "school", "station", "beach", "garden", "library", "forest")

ANIMALS: Final = ("cat", "dog", "horse", "duck", "bear", "fox", "goat", "frog")

FRUITS: Final = ("apple", "pear", "plum", "lemon", "melon", "grape", "olive", "fig")

THINGS: Final = ("cup", "lamp", "book", "chair", "spoon", "clock", "coat", "ring")

CATEGORIES: Final = {"animal": ANIMALS, "fruit": FRUITS, "thing": THINGS, "colour": COLOURS}

NOUNS: Final = ANIMALS + FRUITS + THINGS

LETTERS: Final = tuple("abcdefghijklmnoprstuw")

DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

OPPOSITES: Final = (
    ("hot", "cold"),
    ("big", "small"),
    ("fast", "slow"),
    ("old", "new"),
    ("high", "low"),
    ("full", "empty"),
    ("dark", "light"),
    ("hard", "soft"),
    ("open", "closed"),
    ("early", "late"),
    ("happy", "sad"),
    ("wet", "dry"),
)

PLURALS: Final = (
    *((noun, noun + "s") for noun in NOUNS if noun not in {"fox", "bear"}),
    ("fox", "foxes"),
    ("box", "boxes"),
    ("mouse", "mice"),
    ("child", "children"),
    ("foot", "feet"),
    ("leaf", "leaves"),
)

# present, past
VERBS: Final = (
    ("walks to", "walked to"),
    ("runs to", "ran to"),
    ("drives to", "drove to"),
    ("goes to", "went to"),
    ("looks at", "looked at"),
    ("sits in", "sat in"),
    ("works in", "worked in"),
    ("sleeps in", "slept in"),
)
