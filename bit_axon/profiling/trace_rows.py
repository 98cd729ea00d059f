"""The rows of `thermal.csv`: what they hold, how a line is read, and what is said of one that cannot be."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bit_axon.errors import ConfigError, problem

TRACE_FILE = "thermal.csv"
SCHEMA_VERSION = 1
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class TraceRow:
    """One row; the fields are the columns, in their order.

    A number that is not known is NaN, a count or code None, a word empty.

    Attributes:
        t_mono_s: seconds since the trace began; between the parts of a resumed run, wall time.
        t_wall_utc_ms: Unix time in milliseconds.
        phase: train, eval, save, pause, cooldown or idle.
        opt_step: optimizer updates done.
        tokens_total: real tokens trained on so far.
        temp_ctrl_c: what control looks at, through a short median, in °C; `temp_filt_c` its slow mean.
        n_valid: sensors that gave a value in range.
        chassis_c: battery or drive, which follow the case slowly.
        pressure: 0 nominal, 1 moderate, 2 heavy, 3 trapping, 4 sleeping.
        throttle_bits: the source's own mask of reasons for lower clocks.
        duty: share of time at work that the policy allows, 0 to 1.
        action: what was done or noticed at this moment: start and resume_run (of the run), pause, resume,
            cooldown, stop, split, slow, source, ...; empty in a row that is a poll.
        sleep_s: seconds slept for pacing since the row before; pauses are not in it.
        tok_s_active: tokens per second of active time, of the last step at a shape met before.
        quality: ok, held, stale, invalid or gap (see `Reading`).
    """

    t_mono_s: float
    t_wall_utc_ms: int
    run_id: str
    phase: str
    opt_step: int
    micro_step: int
    tokens_total: int
    source: str
    temp_ctrl_c: float
    temp_filt_c: float
    cpu_avg_c: float
    cpu_max_c: float
    gpu_avg_c: float
    gpu_max_c: float
    n_valid: int | None
    chassis_c: float
    pressure: int | None
    throttle_bits: int | None
    sys_power_w: float
    gpu_power_w: float
    gpu_mhz: float
    gpu_util: float
    fan_rpm: float
    tier: str
    duty: float
    action: str
    sleep_s: float
    tok_s_active: float
    quality: str
    schema_version: int


COLUMNS = tuple(field.name for field in fields(TraceRow))
HEADER = ",".join(COLUMNS) + "\n"


def is_torn(cells: Sequence[str]) -> bool:
    """The last column is one that is always known, so a row without it is not whole."""
    return len(cells) < len(COLUMNS) or (len(cells) == len(COLUMNS) and not cells[-1])


def row_of(cells: Sequence[str]) -> TraceRow:
    """A row from its cells.

    Raises:
        ValueError: there are too many, or one is not what its column holds.
    """
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(cells)} columns")
    values: list[Any] = []
    for name, parse, cell in zip(COLUMNS, _PARSERS, cells, strict=True):
        try:
            values.append(parse(cell))
        except ValueError:
            shown = f"'{cell[:_SHOWN_CHARACTERS]}'" if cell else "nothing"
            raise ValueError(f"{shown} in column '{name}'") from None
    return TraceRow(*values)


def _float_or_nan(cell: str) -> float:
    return float(cell) if cell else math.nan


def _int_or_none(cell: str) -> int | None:
    return int(cell) if cell else None


_PARSER_OF_TYPE: Mapping[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: _float_or_nan,
    int | None: _int_or_none,
}
_PARSERS = tuple(
    float if field.name == "t_mono_s" else _PARSER_OF_TYPE[field.type] for field in fields(TraceRow)
)


def not_a_trace(path: Path, lines: Sequence[str]) -> ConfigError:
    """The error for a file whose first line is not the header, or whose writer was newer."""
    columns = lines[0].rstrip("\r").split(",")
    version = lines[1].rstrip("\r").split(",")[-1] if len(lines) > 1 else ""
    if columns[-1] == COLUMNS[-1] and version.isdigit() and int(version) > SCHEMA_VERSION:
        return newer_trace(f"{path}:1", version)
    missing = [name for name in COLUMNS if name not in columns]
    if len(columns) > len(COLUMNS) // 2 and missing:
        got = f"one without '{missing[0]}'"
    elif not missing:
        got = "other columns, or the same in another order"
    else:
        got = f"'{lines[0][:_SHOWN_CHARACTERS]}'"
    wanted = f"a thermal trace, whose first line names {len(COLUMNS)} columns from {COLUMNS[0]} on"
    remedy = f"Give the {TRACE_FILE} of a run, or move this file away."
    return ConfigError(problem(wanted, got, remedy, where=f"{path}:1"))


def newer_trace(where: str, version: str) -> ConfigError:
    """The error for a row that a newer version wrote."""
    wanted = f"a thermal trace of schema version {SCHEMA_VERSION} or older"
    got = f"version {version}, which a newer bit_axon wrote"
    return ConfigError(problem(wanted, got, "Read it with that version, or update.", where=where))
