"""Runs the contestants of a case in turn, block by block."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.blocks import Block
from benchmarks.contestants import Contestant, Worker, WorkerError


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: blocks of each contestant.
        steps: steady steps in a block.
        warm_steps: steps before the first block.
        block_seconds: a block ends after so long if it has a steady step.
    """

    rounds: int
    steps: int
    warm_steps: int
    block_seconds: float


@dataclass
class Measured:
    """One contestant's figures."""

    contestant: Contestant
    ready: Mapping[str, Any] = field(default_factory=dict)
    warm: Block | None = None
    rounds: list[Block] = field(default_factory=list)
    failure: str | None = None

    @property
    def all_steps(self) -> list[Mapping[str, Any]]:
        """From the first, those that compile included."""
        warm = self.warm.steps if self.warm else ()
        return [*warm, *(step for block in self.rounds for step in block.steps)]


def measure(
    contestants: tuple[Contestant, ...], effort: Effort, logs: Path, say: Callable[[str], None]
) -> dict[str, Measured]:
    """The figures of all, by label. One that fails is left out from there on, with the reason."""
    results = {contestant.label: Measured(contestant) for contestant in contestants}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for contestant in contestants:
            worker = Worker(contestant, logs / f"{contestant.label.replace(' ', '-')}.log")
            stack.callback(worker.close)
            workers[contestant.label] = worker
        for label, worker in workers.items():
            _attempt(results[label], partial(_await, worker=worker))
        for label, worker in workers.items():  # when all are built: none warms up beside another
            _attempt(results[label], partial(_warm, worker=worker, effort=effort))
        for number in range(effort.rounds):
            say(f"  round {number + 1} of {effort.rounds}")
            turn = list(workers.items()) if number % 2 == 0 else list(reversed(workers.items()))
            for label, worker in turn:
                _attempt(results[label], partial(_round, worker=worker, effort=effort))
    return results


def _attempt(found: Measured, action: Callable[[Measured], None]) -> None:
    if found.failure is not None:
        return
    try:
        action(found)
    except WorkerError as error:
        found.failure = str(error)


def _await(found: Measured, worker: Worker) -> None:
    found.ready = worker.ready()


def _warm(found: Measured, worker: Worker, effort: Effort) -> None:
    found.warm = worker.block("warm", effort.warm_steps, effort.block_seconds)


def _round(found: Measured, worker: Worker, effort: Effort) -> None:
    found.rounds.append(worker.block("block", effort.steps, effort.block_seconds))
