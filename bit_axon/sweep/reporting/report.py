"""What a sweep has found so far, as plain values: trials, states, reasons, the best, the time left."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from optuna.distributions import BaseDistribution

State = Literal["complete", "pruned", "failed", "running", "waiting", "retried"]
ENDED: Final[tuple[State, ...]] = ("complete", "pruned", "failed", "retried")
COUNTED: Final[tuple[State, ...]] = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class Objective:
    """A figure of result.json and which end of it is the better one."""

    metric: str
    direction: Literal["minimize", "maximize"] = "minimize"

    @property
    def sign(self) -> int:
        """1 when less is better, -1 when more is."""
        return 1 if self.direction == "minimize" else -1


@dataclass(frozen=True)
class Row:
    """One trial of a study, or one job of a grid."""

    number: int
    state: State
    reason: str = ""
    values: tuple[float, ...] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    curve: Mapping[int, float] = field(default_factory=dict)  # step -> objective, as reported
    started: datetime | None = None
    ended: datetime | None = None
    run_dir: Path | None = None
    noted_dir: Path | None = None  # where its process said it ran; the folder may have been moved since
    start_temp_c: float | None = None
    waited_seconds: float = 0.0  # to cool down, of the time since `started`
    retry_of: int | None = None
    is_due: bool = False  # it is to be run again, and no trial does so yet
    is_feasible: bool = True
    overrides: tuple[str, ...] | None = None  # of its run, where the trial says them

    @property
    def seconds(self) -> float | None:
        """What a trial that has ended took, without its wait to cool down."""
        return None if self.span_seconds is None else max(0.0, self.span_seconds - self.waited_seconds)

    @property
    def span_seconds(self) -> float | None:
        """From start to end, of a trial that has ended."""
        if self.started is None or self.ended is None:
            return None
        return (self.ended - self.started).total_seconds()

    @property
    def last_value(self) -> float | None:
        """The objective, or what was last reported of it."""
        if self.values is not None:
            return self.values[0]
        return self.curve[max(self.curve)] if self.curve else None


@dataclass(frozen=True)
class Report:
    """A study or a grid at one moment."""

    name: str
    kind: Literal["study", "grid"]
    objectives: tuple[Objective, ...]
    rows: tuple[Row, ...]
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    wanted: int | None = None  # trials in all
    notes: tuple[str, ...] = ()  # of what heat did, and of what cannot be compared
    is_open: bool = False  # a process of the sweep's own may begin more of them
    is_ranked: bool = True  # False: the objectives of its rows cannot be compared

    @cached_property
    def best(self) -> tuple[Row, ...]:
        """The best trial, of several equal ones the first; with several objectives, all that none beats."""
        rows = self.ranked if self.is_ranked else ()
        if len(self.objectives) == 1:
            return rows[:1]
        costs = {row.number: self.cost(row) for row in rows}
        return tuple(row for row in rows if not any(_beats(c, costs[row.number]) for c in costs.values()))

    @cached_property
    def best_numbers(self) -> frozenset[int]:
        """Of the best trials."""
        return frozenset(row.number for row in self.best)

    @cached_property
    def ranked(self) -> tuple[Row, ...]:
        """Trials that may be the best: by one objective the best first, otherwise by number."""
        rows = [row for row in self.rows if row.state == "complete" and row.values and row.is_feasible]
        can_be_ordered = len(self.objectives) == 1 and self.is_ranked
        return tuple(sorted(rows, key=self.cost) if can_be_ordered else rows)

    def cost(self, row: Row) -> tuple[float, ...]:
        """The values with less always better; NaN is worse than all."""
        pairs = zip(row.values or (), self.objectives, strict=False)
        return tuple(math.inf if value != value else objective.sign * value for value, objective in pairs)

    def count(self, *states: State) -> int:
        """How many trials are in one of the states."""
        return sum(row.state in states for row in self.rows)

    @property
    def is_done(self) -> bool:
        """Whether it has the trials that were wanted, and none is running."""
        if self.kind == "grid":
            return not self.is_open and not self.count("running")
        if self.wanted is None:
            return not self.count("running", "waiting")
        return self.count(*COUNTED) >= self.wanted and not self.count("running")


def _beats(cost: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return cost != other and all(a <= b for a, b in zip(cost, other, strict=True))


def order_of_end(report: Report) -> list[Row]:
    """The trials that have ended, first to end first; one more trial never changes the places of others."""
    ended = [row for row in report.rows if row.state in ENDED and row.ended is not None]
    return sorted(ended, key=lambda row: (row.ended or datetime.min, row.number))


def best_so_far(report: Report) -> list[tuple[int, Row]]:
    """Of one objective: places in the order of ending where the best trial changes, and that trial."""
    found: list[tuple[int, Row]] = []
    ranked = {row.number for row in report.ranked} if report.is_ranked else set()
    for place, row in enumerate(order_of_end(report)):
        if row.number in ranked and (not found or report.cost(row) < report.cost(found[-1][1])):
            found.append((place, row))
    return found


def remaining_seconds(report: Report, now: datetime | None = None) -> float | None:
    """The time left, from what trials took and the pauses between them; None when nothing is known.

    A pause is the median, so a night between two starts of the sweep does not count.
    """
    ended = [row for row in order_of_end(report) if row.state in COUNTED and row.span_seconds is not None]
    if report.wanted is None or not ended:
        return None
    left = report.wanted - report.count(*COUNTED)
    running = [row for row in report.rows if row.state == "running" and row.started is not None]
    mean = statistics.fmean(row.span_seconds or 0.0 for row in ended)
    spent = sum(min(mean, _age(row, now or datetime.now())) for row in running)
    return max(0.0, left * (mean + _pause(ended)) - spent) / max(1, len(running))


def _age(row: Row, now: datetime) -> float:
    return (now - row.started).total_seconds() if row.started else 0.0


def _pause(ended: Sequence[Row]) -> float:
    """Seconds from the end of a trial to the start of the next; 0 where several workers overlap."""
    starts = sorted(row.started for row in ended if row.started is not None)
    pauses = []
    for start in starts[1:]:
        earlier = [
            row.ended for row in ended if row.ended is not None and row.started and row.started < start
        ]
        pauses.append(max(0.0, (start - max(earlier)).total_seconds()) if earlier else 0.0)
    return statistics.median(pauses) if pauses else 0.0


def outcome(report: Report) -> str:
    """`7 complete, 4 pruned, 1 failed, 1 retried; 1 running`."""
    counts = Counter(row.state for row in report.rows)
    ended = ", ".join(f"{counts[state]} {state}" for state in ENDED if counts[state])
    going = ", ".join(f"{counts[state]} {state}" for state in ("running", "waiting") if counts[state])
    return "; ".join(part for part in (ended, going) if part) or "no trial yet"
