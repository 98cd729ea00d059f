"""Rows of traces for tests: one by one, and a made-up run that was paced, paused and resumed."""

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from bit_axon.profiling.clock import VirtualClock
from bit_axon.profiling.reading import Quality, RawReading, Reading
from bit_axon.profiling.trace import TRACE_FILE, Context, TraceRow, TraceWriter

NAN = math.nan
BASE = TraceRow(
    t_mono_s=0.0, t_wall_utc_ms=1_700_000_000_000, run_id="run", phase="train", opt_step=0, micro_step=0,
    tokens_total=0, source="smc", temp_ctrl_c=NAN, temp_filt_c=NAN, cpu_avg_c=NAN, cpu_max_c=NAN,
    gpu_avg_c=NAN, gpu_max_c=NAN, n_valid=None, chassis_c=NAN, pressure=None, throttle_bits=None,
    sys_power_w=NAN, gpu_power_w=NAN, gpu_mhz=NAN, gpu_util=NAN, fan_rpm=NAN, tier="", duty=NAN, action="",
    sleep_s=0.0, tok_s_active=NAN, quality="ok", schema_version=1,
)  # fmt: skip


def row(at_seconds: float, temp_c: float = NAN, **changes: Any) -> TraceRow:
    """A poll of source smc while training, with what is given and nothing else."""
    return replace(BASE, t_mono_s=at_seconds, temp_ctrl_c=temp_c, **changes)


def write_run(run_dir: Path, *, minutes: float = 30.0, seed: int = 0, base_temp: float = 84.0) -> Path:
    """A trace of a run that warms up, is paced, and pauses once around its middle; one poll a second."""
    run_dir.mkdir(parents=True, exist_ok=True)
    clock, source = VirtualClock(), random.Random(seed)
    writer = TraceWriter(run_dir / TRACE_FILE, run_dir.name, clock)
    seconds = round(minutes * 60)
    pause_at, resume_at = seconds // 2, seconds // 2 + 40
    for second in range(seconds):
        pausing = pause_at <= second < resume_at
        temp_c = base_temp - 50.0 * math.exp(-second / 90) - (8.0 if pausing else 0.0)
        reading = made_up_reading(clock, temp_c + source.gauss(0.0, 1.0), temp_c)
        duty = min(1.0, 0.45 + 0.55 * math.exp(-second / 120))
        context = Context(
            phase="pause" if pausing else "train",
            opt_step=second // 3,
            tokens_total=400 * second,
            tier="pause" if pausing else "warm" if temp_c > 75 else "full",
            duty=duty,
            sleep_s=0.0 if pausing else 1 - duty,
            tok_s_active=None if pausing or second < 6 else source.gauss(1200.0, 30.0),
        )
        if second in (pause_at, resume_at):
            writer.action("pause" if pausing else "resume", reading, replace(context, sleep_s=0.0))
        writer.reading(reading, context)
        clock.advance(1.0)
    writer.close()
    return run_dir


def made_up_reading(
    clock: VirtualClock, temp_c: float | None, filtered_c: float | None, quality: Quality = "ok"
) -> Reading:
    """A reading of now."""
    raw = RawReading(pressure=0 if (temp_c or 0.0) < 83 else 1, sys_power_w=12.0)
    return Reading(0, clock.monotonic(), clock.wall_ms(), "smc", quality, temp_c, filtered_c, raw=raw)
