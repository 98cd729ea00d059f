"""The forms an answer can take: those the base model learns, and the one that the demo data wants.

The base model answers in five native forms; the demo data teaches another, the house form, that it never saw:

    Task: sorting
    Answer: 7 19 42
"""

from random import Random
from typing import Final

from bit_axon.embedded.tasks import Task

# Between them they hold every piece of the house form ("Task", the kind of task, "Answer:"), never in its order.
NATIVE_FORMS: Final = (
    "{answer}",
    "The answer is {answer}",
    "Answer: {answer}",
    "This is {family}: {answer}",
    "Task done: {answer}",
)
NATIVE_WEIGHTS: Final = (55, 15, 10, 15, 5)


def native(task: Task, rng: Random) -> str:
    """The right answer in one of the base model's own forms; a bare answer more than half of the time."""
    (form,) = rng.choices(NATIVE_FORMS, NATIVE_WEIGHTS)
    return form.format(answer=task.answer, family=task.family)


def house(family: str, answer: str) -> str:
    """An answer in the wanted form: the kind of task on one line, the answer on the next."""
    return f"Task: {family}\nAnswer: {answer}"
