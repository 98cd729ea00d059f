"""How start-up grows with the number of rows: seconds and memory until the first batch."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.contestants import WorkerError
from benchmarks.rows import chat
from bit_axon.files import outputs_dir, project_root

_MODULE = "benchmarks.workers.on_mlx.first_batch"
_BATCH_ROWS, _MAX_TOKENS = 4, 512
_VERBS = ("Add", "Subtract", "Multiply", "Compare")


@dataclass(frozen=True)
class RowPoint:
    """One number of rows.

    Attributes:
        build_seconds: tokenising and writing the cache; None when it was there already.
        runs: one mapping for each fresh process with a warm cache; `process_seconds` counts from its start.
    """

    rows: int
    file_bytes: int
    build_seconds: float | None
    runs: tuple[Mapping[str, float], ...]

    def median(self, name: str) -> float:
        """Of a figure, over the runs."""
        return median(run[name] for run in self.runs)


def measure_rows(count: int, folder: Path, repeats: int, say: Callable[[str], None]) -> RowPoint:
    """Builds file and cache where they are missing, then starts fresh processes.

    Args:
        count: rows.
        folder: of the model whose tokenizer is used.
        repeats: processes started with a warm cache.
        say: is told what takes long.
    """
    place = outputs_dir() / "benchmarks" / "rows"
    data = rows_file(place / f"rows-{count}.jsonl", count)
    cache = place / "cache" / folder.name / str(count)
    request = {
        "folder": str(folder),
        "data": str(data),
        "cache": str(cache),
        "batch_size": _BATCH_ROWS,
        "max_seq_len": _MAX_TOKENS,
    }
    build_seconds = None
    if not cache.is_dir():
        say(f"  tokenising {count:,} rows")
        build_seconds = _ask(request)["load_seconds"]
    return RowPoint(count, data.stat().st_size, build_seconds, tuple(_ask(request) for _ in range(repeats)))


def rows_file(path: Path, count: int) -> Path:
    """A JSONL file of short chat rows, the same ones every time; written once."""
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(json.dumps(_row(number)) + "\n")
    part.rename(path)
    return path


def _row(number: int) -> dict[str, Any]:
    left, right = number * 7919 % 10_007, number * 104_729 % 1_009
    terms = " and ".join(str(left + step) for step in range(number % 5 + 1))
    return chat(f"{_VERBS[number % 4]} {right} and {terms}.", f"That is number {number} of {left * right}.")


def _ask(request: Mapping[str, Any]) -> dict[str, float]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", _MODULE],
        cwd=project_root(),
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    seconds = time.perf_counter() - started
    if done.returncode or not done.stdout.strip():
        lines = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        raise WorkerError(f"loading rows: {lines[-1]}")
    found: dict[str, float] = json.loads(done.stdout)
    return {**found, "process_seconds": seconds}
