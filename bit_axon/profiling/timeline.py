"""The rows of a trace over time: how long the state of each row lasted, and which of that time counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bit_axon.profiling.trace import TraceRow

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

_SHORTEST_GAP_SECONDS = 5.0
_GAP_POLLS = 5.0  # so many polls in a row are missing
_USABLE = ("ok", "held")
_WAITING_PHASES = ("pause", "cooldown")
_BEGINS_RUNNING = ("start", "resume_run")  # the first rows of a run, and of one that is gone on with
_BEGINS_WAITING, _ENDS_WAITING = ("pause", "cooldown"), ("resume", "stop", *_BEGINS_RUNNING)


@dataclass(frozen=True)
class Timeline:
    """Arrays `(N,)` over the rows; a row holds until the next one, the last one for no time.

    Attributes:
        rows: as they were read.
        at_seconds: when, never going back.
        elapsed_seconds: until the next row; 0 where the run was not running in between.
        is_down: the run was cut behind this row and gone on with at the next.
        is_gap: what happened until the next row is not known: down, asleep, or polls are missing.
        told: the row whose reading holds: its own, or an earlier one for an action without a reading.
        is_sensed: there is a temperature, and it is to be believed.
        is_waiting: the run is paused, or cools down.
        temps: the control temperature in °C, NaN where it is not sensed.
    """

    rows: Sequence[TraceRow]
    at_seconds: Floats
    elapsed_seconds: Floats
    is_down: Flags
    is_gap: Flags
    told: Places
    is_sensed: Flags
    is_waiting: Flags
    temps: Floats

    @property
    def sensed_seconds(self) -> Floats:
        """Of `elapsed_seconds`, what a known temperature covers."""
        return np.where(self.is_sensed & ~self.is_gap, self.elapsed_seconds, 0.0)

    def waits(self) -> list[tuple[int, int]]:
        """First row of each pause, and the row that ends it (or the last of all)."""
        edges = np.diff(self.is_waiting.astype(np.int8), prepend=0, append=0)
        last = len(self.rows) - 1
        starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        return [(int(start), min(int(end), last)) for start, end in zip(starts, ends, strict=True)]


def build_timeline(rows: Sequence[TraceRow]) -> Timeline:
    """The timeline of a trace's rows."""
    at = np.maximum.accumulate(numbers([row.t_mono_s for row in rows]))
    spans = np.diff(at, append=at[-1:])
    next_rows = rows[1:]
    is_down = _flags([row.action in _BEGINS_RUNNING for row in next_rows], len(rows))
    is_late = _is_late(at, np.array([not row.action for row in rows], dtype=bool))
    is_gap = is_down | is_late | _flags([row.quality == "gap" for row in next_rows], len(rows))
    told = _told(rows)
    temps = numbers([row.temp_ctrl_c for row in rows])[told]
    usable = np.array([row.quality in _USABLE for row in rows], dtype=bool)[told]
    is_sensed = usable & ~np.isnan(temps)
    return Timeline(
        rows=rows,
        at_seconds=at,
        elapsed_seconds=np.where(is_down, 0.0, spans),
        is_down=is_down,
        is_gap=is_gap,
        told=told,
        is_sensed=is_sensed,
        is_waiting=_waiting(rows),
        temps=np.where(is_sensed, temps, np.nan),
    )


def numbers(values: Sequence[Any]) -> Floats:
    """Floats; None becomes NaN."""
    return np.array(values, dtype=np.float64)


def _is_late(at_seconds: Floats, is_poll: Flags) -> Flags:
    """Where the polls before and after a row are too far apart; actions tell nothing new of the sensors."""
    if not len(at_seconds):
        return is_poll
    polls = at_seconds[is_poll]
    usual = float(np.median(np.diff(polls))) if len(polls) > 1 else 0.0
    behind = np.searchsorted(np.flatnonzero(is_poll), np.arange(len(at_seconds)), side="right")  # next poll
    edges = np.concatenate([at_seconds[:1], polls, at_seconds[-1:]])
    spans: Floats = edges[behind + 1] - edges[behind]
    return spans > max(_SHORTEST_GAP_SECONDS, _GAP_POLLS * usual)


def _flags(of_next: Sequence[bool], length: int) -> Flags:
    """What is true of the next row, as an array over all rows."""
    flags = np.zeros(length, dtype=bool)
    flags[: len(of_next)] = of_next
    return flags


def _told(rows: Sequence[TraceRow]) -> Places:
    tells = np.array([bool(row.quality) or row.action in _BEGINS_RUNNING for row in rows], dtype=bool)
    return np.maximum.accumulate(np.where(tells, np.arange(len(rows)), 0))


def _waiting(rows: Sequence[TraceRow]) -> Flags:
    """Actions decide, since a poll's row may come late; before the first one, the phase does."""
    marks = np.array([_mark(row.action) for row in rows], dtype=np.int8)
    newest = np.maximum.accumulate(np.where(marks >= 0, np.arange(len(rows)), -1))
    by_phase = np.array([row.phase in _WAITING_PHASES for row in rows], dtype=bool)
    cools = np.array([row.phase == "cooldown" for row in rows], dtype=bool)
    return np.where(newest >= 0, marks[newest] == 1, by_phase) | cools


def _mark(action: str) -> int:
    """1 where waiting begins, 0 where it ends, -1 otherwise."""
    if action in _BEGINS_WAITING:
        return 1
    else:
        return 0 if action in _ENDS_WAITING else -1
