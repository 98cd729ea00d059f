"""How much heat a trial costs, read off its trace, and what a study may spend on it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from annotated_types import Gt, Le

from bit_axon.errors import ConfigError, problem
from bit_axon.profiling.summary import summarize
from bit_axon.profiling.timeline import Timeline, build_timeline
from bit_axon.profiling.trace import TraceRow, read_trace
from bit_axon.schema import NonNegative, Positive, options
from bit_axon.validation import check

BUDGET_KEY: Final = "hydra.sweeper.heat_budget"

_CAUSES: Final = (
    "model", "model.*", "adapter", "adapter.name", "adapter.rank", "adapter.layers", "adapter.targets",
    "method", "method.name", "data", "data.max_seq_len", "data.pack_length", "data.packing",
    "training.batch_size", "training.grad_accum_steps", "training.gradient_checkpointing",
    "training.compile", "training.optimizer", "training.max_steps", "training.epochs", "training.eval_every",
)  # fmt: skip
_LEAST_COVERAGE = 0.95  # of the time that is judged, by valid readings
_SHORTEST_SECONDS = 60.0  # that can be judged
_LONGEST_SILENCE_SECONDS = 30.0  # of the trace, as work goes on
_SECONDS_PER_HOUR = 3600.0


@options
class HeatBudget:
    """`hydra.sweeper.heat_budget`: what a trial may cost; each limit that is not null holds.

    Attributes:
        degree_seconds: °C·s above the run's pause temperature, over the whole run.
        paused_fraction: of the time, spent waiting in pauses and between micro-batches.
        hours: for the whole run, waits included.
        warmup_seconds: left out of what is projected: every run is fast while it is still cold.
        causes: parameters that change how much work there is, with `*`; a search over none of them is
            never judged by heat.
    """

    degree_seconds: Positive | None = None
    paused_fraction: Annotated[float, Gt(0), Le(1)] | None = None
    hours: Positive | None = None
    warmup_seconds: NonNegative = 300.0
    causes: list[str] = field(default_factory=lambda: list(_CAUSES))

    @property
    def limits(self) -> dict[str, float]:
        """Those that are set, by the names of `Heat`."""
        named = {
            "degree_seconds": self.degree_seconds,
            "paused_fraction": self.paused_fraction,
            "hours": self.hours,
        }
        return {name: value for name, value in named.items() if value is not None}


def parse_budget(values: Mapping[str, Any]) -> HeatBudget:
    """The budget as it was composed.

    Raises:
        ConfigError: a key or value is wrong, or nothing is limited.
    """
    budget = check(HeatBudget, values, path=BUDGET_KEY)
    if not budget.limits:
        remedy = "Set one of degree_seconds, paused_fraction, hours, or heat_budget: null."
        raise ConfigError(problem(f"a limit in {BUDGET_KEY}", "none", remedy), keys=(BUDGET_KEY,))
    return budget


@dataclass(frozen=True)
class Heat:
    """What a whole run will cost, going by the time after its warm-up.

    Attributes:
        state: known; early (too little of it has run); unknown (no sensor, or readings are missing).
        step: optimizer updates done.
        degree_seconds: °C·s above the pause temperature.
        paused_fraction: of the time after the warm-up.
        hours: waits included.
    """

    state: Literal["known", "early", "unknown"]
    step: int
    degree_seconds: float | None = None
    paused_fraction: float | None = None
    hours: float | None = None

    def excess(self, budget: HeatBudget) -> tuple[str, float] | None:
        """The limit that is exceeded most or missed least, and by how much of itself; None = not known."""
        found = asdict(self)
        shares = {
            name: found[name] / limit - 1.0
            for name, limit in budget.limits.items()
            if self.state == "known" and found[name] is not None
        }
        return max(shares.items(), key=lambda item: item[1], default=None)


def heat_from(values: object) -> Heat | None:
    """What `asdict` of a heat was made from, as a trial's attribute has it."""
    if not isinstance(values, Mapping) or not {"state", "step"} <= set(values):
        return None
    return Heat(**{item.name: values[item.name] for item in fields(Heat) if item.name in values})


@dataclass(frozen=True)
class HeatWatch:
    """Reads the heat of a run that is going on off its trace.

    Attributes:
        trace: `thermal.csv` of the run.
        pause_temp: of the run, in °C.
        max_steps: optimizer updates it will make.
        budget: for its warm-up.
    """

    trace: Path
    pause_temp: float
    max_steps: int
    budget: HeatBudget

    def facts(self, step: int) -> dict[str, Any]:
        """For the attribute `heat` of the trial, after `step` updates."""
        try:
            rows = read_trace(self.trace)
        except ConfigError:  # no sensor, or a disk that is full: the trace is not there, or not whole
            rows = []
        found = measure_heat(
            rows,
            step=step,
            max_steps=self.max_steps,
            pause_temp=self.pause_temp,
            warmup_seconds=self.budget.warmup_seconds,
        )
        return asdict(found)


def measure_heat(
    rows: Sequence[TraceRow], *, step: int, max_steps: int, pause_temp: float, warmup_seconds: float
) -> Heat:
    """The heat of a run so far, projected to its end at the rate it has had since the warm-up.

    Args:
        rows: of its trace.
        step: updates done by now.
        max_steps: updates it will make.
        pause_temp: °C.
        warmup_seconds: of running time, left out.
    """
    timeline = build_timeline(rows)
    if not len(rows) or not timeline.is_sensed[-1]:
        return Heat("unknown", step)
    ran = np.cumsum(timeline.elapsed_seconds) - timeline.elapsed_seconds
    start = _first_update(timeline, ran.tolist(), warmup_seconds)
    if start is None or ran[-1] - ran[start] < _SHORTEST_SECONDS:
        return Heat("early", step)
    before, done = rows[start].opt_step - 1, _updates_done(rows[-1])
    seconds = float(ran[-1] - ran[start])
    if done <= before:
        return Heat("early", step)
    seconds_per_update = seconds / (done - before)
    summary = summarize(rows[start:], pause_temp=pause_temp)
    silent = (step - done) * seconds_per_update > _LONGEST_SILENCE_SECONDS
    if silent or (summary["coverage"] or 0.0) < _LEAST_COVERAGE:
        return Heat("unknown", step)
    whole = float(ran[start]) + (max_steps - before) * seconds_per_update
    sensed = seconds * summary["coverage"]
    return Heat(
        "known",
        step,
        degree_seconds=round(summary["degree_seconds_above_pause"] / sensed * whole, 3),
        paused_fraction=summary["overhead"],
        hours=round(whole / _SECONDS_PER_HOUR, 6),
    )


def _first_update(timeline: Timeline, ran: Sequence[float], warmup_seconds: float) -> int | None:
    """The first row after the warm-up at which a new update had just begun."""
    newest = math.inf
    for place, row in enumerate(timeline.rows):
        if row.phase != "train":
            continue
        if ran[place] >= warmup_seconds and row.opt_step > newest:
            return place
        newest = row.opt_step
    return None


def _updates_done(row: TraceRow) -> int:
    """While training, `opt_step` is the update that is being worked on."""
    return row.opt_step - 1 if row.phase == "train" else row.opt_step
