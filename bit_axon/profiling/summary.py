"""A trace in numbers, for `result.json`: how hot, how long, and what the heat cost."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bit_axon.profiling.reading import PRESSURE_HEAVY, PRESSURE_NAMES
from bit_axon.profiling.timeline import Flags, Floats, Timeline, build_timeline, numbers
from bit_axon.profiling.trace import TraceRow

_PRESSURE_MODERATE = PRESSURE_NAMES.index("moderate")
_UNKNOWN_TIER = "unknown"
_LAST_SHARE = 0.1  # of the steps, for the speed at the end
_FEWEST_SPEEDS = 10
_DECIMALS = 6
_JOULES_PER_WATT_HOUR = 3600.0


def summarize(
    rows: Sequence[TraceRow],
    *,
    pause_temp: float | None = None,
    dropped_rows: int = 0,
    baseline_steps: int = 20,
) -> dict[str, Any]:
    """The summary of a trace; what the trace does not tell is None.

    A row holds until the next one. Time in which the run was not running counts nowhere; time without
    a valid reading counts in no temperature and no tier, and lowers `coverage`.

    Args:
        rows: of one run, resumed or not.
        pause_temp: °C, for `degree_seconds_above_pause`.
        dropped_rows: rows that the writer could not write.
        baseline_steps: steps at the beginning that `throttled_throughput` compares with.

    Returns:
        `max p95 mean min start end` in °C, weighted by time; `tier_seconds` and `tier_fraction` by tier;
        `pause_count paused_seconds longest_pause_seconds paced_seconds`; `duty_mean`, 0 in a pause;
        `overhead` = (paused + paced) / all time but idle; `throttled_throughput` = active tokens per
        second in the last tenth / in the first steps, `throttled_throughput_min` the same of the slowest
        tenth; `pressure_moderate_seconds`, `pressure_heavy_seconds` (at least so much) and
        `throttled_seconds`, as the machine said itself;
        `energy_wh` and `joules_per_token` of `energy_of` system or gpu; `coverage` 0 to 1; counts.
    """
    timeline = build_timeline(rows)
    summary = {
        **_sources(timeline),
        "seconds": float(timeline.elapsed_seconds.sum()),
        **_temperatures(timeline, pause_temp),
        **_tiers(timeline),
        **_waits(timeline),
        **_throughput(rows, baseline_steps),
        **_slowed(timeline),
        **_energy(timeline),
        **_health(timeline),
        "dropped_rows": dropped_rows,
    }
    return {name: _rounded(value) for name, value in summary.items()}


def _sources(timeline: Timeline) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    for row, covered in zip(timeline.rows, timeline.sensed_seconds.tolist(), strict=True):
        if row.source:
            seconds[row.source] = seconds.get(row.source, 0.0) + covered
    longest = max(seconds, key=lambda name: seconds[name], default="none")
    return {"source": longest, "sources": list(seconds)}


def _temperatures(timeline: Timeline, pause_temp: float | None) -> dict[str, Any]:
    temps, weights = timeline.temps[timeline.is_sensed], timeline.sensed_seconds[timeline.is_sensed]
    if not len(temps):
        names = ("max", "p95", "mean", "min", "start", "end", "degree_seconds_above_pause")
        return dict.fromkeys(names)
    above = None if pause_temp is None else float(weights @ np.maximum(temps - pause_temp, 0.0))
    if not weights.any():
        weights = np.ones_like(temps)  # readings that lasted no time at all
    return {
        "max": float(temps.max()),
        "p95": _percentile(temps, weights, 0.95),
        "mean": float(weights @ temps / weights.sum()),
        "min": float(temps.min()),
        "start": float(temps[0]),
        "end": float(temps[-1]),
        "degree_seconds_above_pause": above,
    }


def _percentile(values: Floats, weights: Floats, share: float) -> float:
    """The lowest value that `share` of the weight does not exceed."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    place = int(np.searchsorted(reached, share * reached[-1] * (1 - 1e-12)))
    return float(values[order][place])


def _tiers(timeline: Timeline) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    for row, covered in zip(timeline.rows, timeline.sensed_seconds.tolist(), strict=True):
        if covered:
            tier = row.tier or _UNKNOWN_TIER
            seconds[tier] = seconds.get(tier, 0.0) + covered
    total = sum(seconds.values())
    fractions = {tier: value / total for tier, value in seconds.items()}
    return {"tier_seconds": seconds, "tier_fraction": fractions}


def _waits(timeline: Timeline) -> dict[str, Any]:
    rows, elapsed = timeline.rows, timeline.elapsed_seconds
    pauses = [float(elapsed[start:end].sum()) for start, end in timeline.waits()]
    paused, paced = sum(pauses, 0.0), sum((row.sleep_s for row in rows if row.sleep_s > 0), 0.0)
    working = np.array([row.phase != "idle" for row in rows], dtype=bool)
    total = float(elapsed[working | timeline.is_waiting].sum())
    duties = np.where(timeline.is_waiting, 0.0, numbers([row.duty for row in rows]))
    weights = np.where(working & ~np.isnan(duties), elapsed, 0.0)
    return {
        "pause_count": len(pauses),
        "paused_seconds": paused,
        "longest_pause_seconds": max(pauses, default=0.0),
        "paced_seconds": paced,
        "duty_mean": float(weights @ np.nan_to_num(duties) / weights.sum()) if weights.any() else None,
        "overhead": min(1.0, (paused + paced) / total) if total else None,
    }


def _throughput(rows: Sequence[TraceRow], baseline_steps: int) -> dict[str, Any]:
    speeds = step_speeds(rows)
    if len(speeds) < _FEWEST_SPEEDS:
        return {"throttled_throughput": None, "throttled_throughput_min": None}
    baseline = float(np.median(speeds[: min(baseline_steps, len(speeds) // 2)]))
    window = math.ceil(_LAST_SHARE * len(speeds))
    last = float(np.median(speeds[-window:]))
    tenths = [float(np.median(speeds[end - window : end])) for end in range(len(speeds), window - 1, -window)]
    return {"throttled_throughput": last / baseline, "throttled_throughput_min": min(tenths) / baseline}


def step_speeds(rows: Sequence[TraceRow]) -> list[float]:
    """Active tokens per second, once for each step that a row saw."""
    speeds: list[float] = []
    seen_step: int | None = None
    for row in rows:
        if row.tok_s_active > 0 and row.opt_step != seen_step:
            speeds.append(row.tok_s_active)
            seen_step = row.opt_step
    return speeds


def _slowed(timeline: Timeline) -> dict[str, Any]:
    """What the machine itself said of slowing down."""
    known = np.where(timeline.is_gap, 0.0, timeline.elapsed_seconds)
    levels = numbers([row.pressure for row in timeline.rows])[timeline.told]
    bits = numbers([row.throttle_bits for row in timeline.rows])[timeline.told]

    def seconds(is_so: Flags, values: Floats) -> float | None:
        return None if np.isnan(values).all() else float(known[is_so].sum())

    return {
        "pressure_moderate_seconds": seconds(levels >= _PRESSURE_MODERATE, levels),
        "pressure_heavy_seconds": seconds(levels >= PRESSURE_HEAVY, levels),
        "throttled_seconds": seconds(bits > 0, bits),
    }


def _energy(timeline: Timeline) -> dict[str, Any]:
    """The integral of power where it is known, and of the tokens trained on in that time."""
    rows = timeline.rows
    system, gpu = numbers([row.sys_power_w for row in rows]), numbers([row.gpu_power_w for row in rows])
    of_system = not np.isnan(system).all()
    watts = (system if of_system else gpu)[timeline.told]
    measured = ~np.isnan(watts) & ~timeline.is_gap
    joules = float(watts[measured] @ timeline.elapsed_seconds[measured])
    if not joules:
        return {"energy_of": None, "energy_wh": None, "joules_per_token": None}
    totals = numbers([row.tokens_total for row in rows])
    gained = np.maximum(np.diff(totals, append=totals[-1:]), 0.0)  # a resumed run repeats some
    tokens = float(gained[measured].sum())
    return {
        "energy_of": "system" if of_system else "gpu",
        "energy_wh": joules / _JOULES_PER_WATT_HOUR,
        "joules_per_token": joules / tokens if tokens else None,
    }


def _health(timeline: Timeline) -> dict[str, Any]:
    rows, total = timeline.rows, float(timeline.elapsed_seconds.sum())
    return {
        "coverage": float(timeline.sensed_seconds.sum()) / total if total else None,
        "invalid_count": sum(row.quality == "invalid" and not row.action for row in rows),
        "stops": sum(row.action == "stop" for row in rows),
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    else:
        return round(value, _DECIMALS) if isinstance(value, float) else value
