"""How the cost of a step grows along an axis: sequence length, model size or rank."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from pathlib import Path
from typing import Any

from benchmarks.blocks import Spread, spread, values_of
from benchmarks.contestants import OURS, Contestant
from benchmarks.folders import model_folder, parameters_of
from benchmarks.measuring import Effort, Measured, measure
from benchmarks.rows import long_batch
from benchmarks.workers.protocol import Spec
from bit_axon.files import outputs_dir
from bit_axon.tokenizer import QwenTokenizerWrapper

_TOKENS = 256  # per row, along the axes of size and rank
_MAX_TOKENS = 4096


@dataclass(frozen=True)
class Setting:
    """What stays the same along every axis."""

    model: str
    adapter: str
    peers: tuple[str, ...]
    batch_rows: int
    sft: Path
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """A place on an axis: its name, its number, and what is trained there."""

    name: str
    value: float
    spec: Spec


@dataclass(frozen=True)
class PointResult:
    """What one contestant took at a point."""

    axis: str
    point: Point
    peer: str
    step_seconds: Spread | None
    real_tokens_per_second: Spread | None
    peak_bytes: Spread | None
    failure: str | None

    def to_json(self) -> dict[str, Any]:
        """Without the folders of this machine."""
        values = {key: value for key, value in asdict(self).items() if key != "point"}
        return {"name": self.point.name, "value": self.point.value, **values}


def length_points(setting: Setting, lengths: Sequence[int]) -> Iterator[Point]:
    """Rows of each length."""
    for length in lengths:
        yield Point(str(length), length, _spec(setting, setting.model, length))


def size_points(setting: Setting, sizes: Sequence[str]) -> Iterator[Point]:
    """Models of each size."""
    for size in sizes:
        yield Point(size, parameters_of(size), _spec(setting, size, _TOKENS))


def rank_points(setting: Setting, ranks: Sequence[int]) -> Iterator[Point]:
    """Adapters of each rank."""
    spec = _spec(setting, setting.model, _TOKENS)
    for rank in ranks:
        yield Point(str(rank), rank, replace(spec, rank=rank))


def _spec(setting: Setting, model: str, length: int) -> Spec:
    folder = model_folder(model, list(setting.texts))
    target = outputs_dir() / "benchmarks" / "data" / folder.name / f"{setting.batch_rows}x{length}"
    batch = long_batch(setting.sft, QwenTokenizerWrapper(folder), length, setting.batch_rows, target)
    return Spec(
        str(folder),
        str(batch.rows),
        adapter=setting.adapter,
        batch_size=setting.batch_rows,
        max_seq_len=_MAX_TOKENS,
        packing=False,
        tokens=str(batch.tokens),
    )


def measure_point(
    axis: str, point: Point, setting: Setting, effort: Effort, logs: Path, say: Callable[[str], None]
) -> list[PointResult]:
    """Ours, and the peers asked for, in turn."""
    peers = (OURS, *setting.peers)
    contestants = tuple(Contestant(peer, peer, sys.executable, point.spec) for peer in peers)
    found = measure(contestants, effort, logs / f"{axis}-{point.name}", say)
    return [_result(axis, point, measured) for measured in found.values()]


def _result(axis: str, point: Point, measured: Measured) -> PointResult:
    return PointResult(
        axis=axis,
        point=point,
        peer=measured.contestant.peer,
        step_seconds=spread(values_of(measured.rounds, "step_seconds")),
        real_tokens_per_second=spread(values_of(measured.rounds, "real_tokens_per_second")),
        peak_bytes=spread(values_of(measured.rounds, "peak_bytes")),
        failure=measured.failure,
    )


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """The power with which y grows with x: the least-squares slope of the logarithms.

    None for fewer than two places.
    """
    if len({x for x, _ in points}) < 2:
        return None
    logs = [(log(x), log(y)) for x, y in points]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    spread_x = sum((x - mean_x) ** 2 for x, _ in logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread_x
