"""The demo rows: a prompt, the chosen answer in the house form, and a rejected one."""

from collections.abc import Iterator
from random import Random
from typing import Final

from bit_axon.embedded import forms, tasks
from bit_axon.embedded.tasks import FAMILIES, Task

ROWS_PER_FAMILY: Final = {"demo/train": 48, "demo/valid": 10}
_SEED: Final = "demo-1"


def rows(name: str) -> Iterator[dict[str, str]]:
    """The rows of "demo/train" or "demo/valid", the same ones every time; no prompt comes twice."""
    rng = Random(f"{_SEED}-{name}")
    wanted_split = "train" if name == "demo/train" else name
    wanted_rows = ROWS_PER_FAMILY[name] * len(FAMILIES)
    open_places = dict.fromkeys(FAMILIES, ROWS_PER_FAMILY[name])
    seen: set[str] = set()
    for task in tasks.stream(rng):
        if len(seen) == wanted_rows:
            return
        if task.prompt in seen or not open_places[task.family] or tasks.split_of(task.prompt) != wanted_split:
            continue
        seen.add(task.prompt)
        open_places[task.family] -= 1
        yield {
            "prompt": task.prompt,
            "chosen": forms.house(task.family, task.answer),
            "rejected": _rejected(task, rng),
        }


def _rejected(task: Task, rng: Random) -> str:
    """Half of the time the house form with wrong content, otherwise the right content in a native form."""
    if rng.random() < 0.5:
        return forms.house(task.family, task.wrong)
    return forms.native(task, rng)
