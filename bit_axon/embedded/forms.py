"""The forms an answer can take: those the base model learns, and the one that the demo data wants.

The base model answers in four native forms; the demo data teaches another, the house form, that it never saw:

    Answer: 3 5 9
    Task: sorting
"""

from random import Random
from typing import Final

from bit_axon.embedded.tasks import Task

# Between them they hold every piece of the house form ("Task", the kind of task, "Answer:"), but never in
# its order. Each puts a space before the answer, so that a word is the same token wherever it stands.
NATIVE_FORMS: Final = (
    "The answer is {answer}",
    "Answer: {answer}",
    "This is {family}: {answer}",
    "Task done: {answer}",
)
NATIVE_WEIGHTS: Final = (60, 15, 15, 10)


def native(task: Task, rng: Random) -> str:
    """The right answer in one of the base model's own forms; a plain sentence more than half of the time."""
    (form,) = rng.choices(NATIVE_FORMS, NATIVE_WEIGHTS)
    return form.format(answer=task.answer, family=task.family)


def house(family: str, answer: str) -> str:
    """An answer in the wanted form: the answer on one line, the kind of task on the next."""
    return f"Answer: {answer}\nTask: {family}"
