"""What a worker and its parent say to each other: one JSON object per line, over stdin and stdout.

    to the worker    the spec, then {"do": "warm" | "block", "steps": n, "max_seconds": s} or {"do": "quit"}
    from it          {"ready": true, "setup_seconds": s, "versions": {...}}, then one block per command

A block ends with its `steps`-th step of a shape seen before. It ends sooner when `max_seconds` are over
and it holds one such step, and at the latest after three times `steps` or `max_seconds`. Warming up just
ends when `max_seconds` are over.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TextIO

from benchmarks.workers.memory import ResidentMemory

_PATIENCE = 3  # times the wanted steps or seconds


class Quit(Exception):
    """The parent wants no more steps."""


class FrameworkMemory(Protocol):
    """The allocator of an array framework."""

    def reset(self) -> None:
        """Forgets the peak."""

    def peak_bytes(self) -> int:
        """The most that was allocated since."""


@dataclass(frozen=True)
class Spec:
    """What a worker trains.

    Attributes:
        folder: the model's folder.
        data: JSONL of chat rows, or of preference rows for ORPO.
        batch_size: rows, packs or pairs per step.
        tokens: JSON of the tokens of one fixed batch, for a worker that has no data path of its own.
    """

    folder: str
    data: str
    method: str = "sft"
    adapter: str = "lora"
    rank: int = 8
    scale: float = 20.0
    batch_size: int = 4
    learning_rate: float = 1e-5
    max_seq_len: int = 2048
    packing: bool = True
    tokens: str | None = None
    threads: int = 1
    seed: int = 42


@dataclass(frozen=True)
class StepFacts:
    """One optimizer update.

    Attributes:
        real_tokens: without padding and separators.
        supervised_tokens: targets, the end of the answer included.
        examples: rows, or pairs.
        positions: tokens computed, padding included.
        loss: as the contestant defines it.
        is_new_shape: something was traced and compiled for it.
    """

    real_tokens: int
    supervised_tokens: int
    examples: int
    positions: int
    loss: float
    is_new_shape: bool


class Channel:
    """Lines to and from the parent."""

    def __init__(self, source: TextIO, target: TextIO):
        self._source, self._target = source, target

    @classmethod
    def claim(cls) -> "Channel":
        """Takes standard output for the parent alone; whatever a library prints goes to the error stream."""
        kept = os.dup(1)
        os.dup2(2, 1)
        return cls(sys.stdin, os.fdopen(kept, "w", buffering=1, encoding="utf-8"))

    def receive(self) -> dict[str, Any] | None:
        """The next object; None when the parent is gone."""
        line = self._source.readline()
        return json.loads(line) if line.strip() else None

    def send(self, message: Mapping[str, Any]) -> None:
        """Writes one line."""
        self._target.write(json.dumps(message) + "\n")
        self._target.flush()


class Recorder:
    """Times the steps of a training that runs, and lets it wait between blocks.

    A step lasts from the end of the one before to its own end, so building its batch is counted.
    """

    def __init__(self, channel: Channel, framework: FrameworkMemory | None, started: float):
        self._channel, self._framework, self._started = channel, framework, started
        self._resident = ResidentMemory()
        self._steps: list[dict[str, Any]] = []
        self._wanted, self._max_seconds, self._warms = 0, 0.0, False
        self._begun = self._last = started

    def begin(self, versions: Mapping[str, str]) -> None:
        """Everything is built: waits for the first command."""
        setup_seconds = time.perf_counter() - self._started
        self._channel.send({"ready": True, "setup_seconds": setup_seconds, "versions": dict(versions)})
        self._wait()

    def finished(self, facts: StepFacts) -> None:
        """A step is over; raises Quit when there shall be no other."""
        now = time.perf_counter()
        self._steps.append({"seconds": now - self._last, **asdict(facts)})
        if self._is_complete(now):
            self._channel.send(self._block())
            self._wait()
        self._last = time.perf_counter()

    def _is_complete(self, now: float) -> bool:
        steady = sum(not step["is_new_shape"] for step in self._steps)
        seconds = now - self._begun
        is_late = seconds >= self._max_seconds and (steady >= 1 or self._warms)
        is_hopeless = seconds >= _PATIENCE * self._max_seconds or len(self._steps) >= _PATIENCE * self._wanted
        return steady >= self._wanted or is_late or is_hopeless

    def _block(self) -> dict[str, Any]:
        return {
            "steps": self._steps,
            "peak_bytes": self._framework.peak_bytes() if self._framework else None,
            "resident_peak_bytes": self._resident.peak_bytes(),
        }

    def _wait(self) -> None:
        command = self._channel.receive()
        if command is None or command["do"] == "quit":
            raise Quit
        self._steps, self._wanted = [], int(command["steps"])
        self._max_seconds = float(command["max_seconds"])
        self._warms = command["do"] == "warm"
        self._resident.reset()
        if self._framework:
            self._framework.reset()
        self._begun = self._last = time.perf_counter()


def serve(train: Callable[[Spec, Recorder], None], framework: FrameworkMemory | None) -> None:
    """Runs a worker: `train` builds everything, calls `begin`, and then trains without end."""
    started = time.perf_counter()
    channel = Channel.claim()
    spec = channel.receive()
    if spec is None:
        return
    with suppress(Quit):
        train(Spec(**spec), Recorder(channel, framework, started))
