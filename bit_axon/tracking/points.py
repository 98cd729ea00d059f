"""`metrics.jsonl`, read piece by piece: what was appended since the last look."""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"
READ_BYTES = 1 << 18
_TAIL_BYTES = 256
_FORBIDDEN = re.compile(r"[^\w\-. :/]")  # what MLflow refuses in a metric's name


@dataclass(frozen=True)
class Point:
    """One value of one metric; `time_ms` is unix time."""

    name: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True)
class Piece:
    """Points of some whole lines, and where the next piece starts."""

    points: list[Point]
    offset: int  # bytes
    broken_lines: int
    more: bool  # whole lines may follow


def read_piece(path: Path, offset: int, read_bytes: int = READ_BYTES) -> Piece:
    """Whole lines from `offset` on, about `read_bytes` of them; a last line without its newline waits."""
    if not path.is_file():
        return Piece([], offset, 0, False)
    with open(path, "rb") as file:
        file.seek(offset)
        raw = file.read(read_bytes)
        more = len(raw) == read_bytes
        if more:
            raw += file.readline()
    whole = raw[: raw.rfind(b"\n") + 1]
    points: list[Point] = []
    broken_lines = 0
    for line in whole.splitlines():
        found = points_of_line(line)
        if found is None:
            broken_lines += 1
        else:
            points += found
    return Piece(points, offset + len(whole), broken_lines, more)


def points_of_line(line: bytes) -> list[Point] | None:
    """The points of one line; None when it is no record (a torn write)."""
    try:
        record = json.loads(line)
        time_ms, step = int(record["time"]), int(record["step"])
        metrics = dict(record.get("metrics") or {})
        return [Point(metric_name(name), number(value), time_ms, step) for name, value in metrics.items()]
    except (ValueError, KeyError, TypeError):
        return None


def number(value: Any) -> float:
    """A float for MLflow: infinities become NaN, for they would flatten every chart they are in."""
    result = math.nan if value is None else float(value)
    return result if math.isfinite(result) else math.nan


def metric_name(name: str) -> str:
    """The name with characters MLflow refuses replaced."""
    return _FORBIDDEN.sub("_", name)


def all_points(path: Path) -> Iterator[Point]:
    """Every point of the file, in its order."""
    offset, more = 0, True
    while more:
        piece = read_piece(path, offset)
        yield from piece.points
        more = piece.more and piece.offset > offset
        offset = piece.offset


def tail_digest(path: Path, offset: int) -> str:
    """Digest of the bytes just before `offset`: tells whether the file is still the one read before."""
    if not path.is_file() or path.stat().st_size < offset:
        return "absent"
    with open(path, "rb") as file:
        file.seek(max(0, offset - _TAIL_BYTES))
        return hashlib.sha256(file.read(min(offset, _TAIL_BYTES))).hexdigest()
