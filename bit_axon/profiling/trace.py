"""`thermal.csv`: one row per poll and one per action, so that a run's heat can be looked at and replayed.

An empty cell is a value that is not known; nothing unknown is ever written as 0.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Literal

from bit_axon.errors import ConfigError, problem
from bit_axon.profiling.clock import Clock
from bit_axon.profiling.reading import Reading
from bit_axon.profiling.trace_rows import (
    COLUMNS,
    HEADER,
    SCHEMA_VERSION,
    TRACE_FILE,
    TraceRow,
    is_torn,
    newer_trace,
    not_a_trace,
    row_of,
)

__all__ = [
    "COLUMNS",
    "SCHEMA_VERSION",
    "TRACE_FILE",
    "Context",
    "Phase",
    "TraceRow",
    "TraceWriter",
    "read_trace",
]

Phase = Literal["train", "eval", "save", "pause", "cooldown", "idle"]

_HEAD_BYTES, _TAIL_BYTES = 1 << 12, 1 << 14


@dataclass(frozen=True)
class Context:
    """What the run is doing; the names are those of the columns (see `TraceRow`)."""

    phase: Phase
    opt_step: int = 0
    micro_step: int = 0
    tokens_total: int = 0
    tier: str = ""
    duty: float | None = None
    sleep_s: float = 0.0
    tok_s_active: float | None = None


class TraceWriter:
    """Appends rows, from any thread, and never stands in the way of training.

    A row that the disk refuses is dropped and counted in `dropped`. A trace that is there already is
    gone on with: its clock runs on by the wall time that has passed since its last row.

    Args:
        path: the file; its folder exists.
        run_id: written in every row.
        clock: the clock of the readings.

    Raises:
        ConfigError: the file is there and is no trace of this version.
    """

    def __init__(self, path: Path, run_id: str, clock: Clock):
        self._run_id, self._clock = _word(run_id), clock
        self._lock = Lock()
        self._closed = False
        self._owed = HEADER.encode()  # must reach the file before the next row
        self._offset_seconds = -clock.monotonic()  # to the trace's time from the clock's
        self._last_seconds = 0.0
        self.dropped = 0
        self._file = self._open(path)

    def reading(self, reading: Reading, context: Context) -> None:
        """The row of a poll."""
        self._write(reading.t_mono_s, reading.t_wall_ms, "", reading, context)

    def action(self, name: str, reading: Reading | None, context: Context) -> None:
        """The row of something that was done or noticed: pause, resume, stop, split, source, gap, ...

        Args:
            name: one word.
            reading: the newest one; None leaves its columns empty.
            context: with the `sleep_s` since the row before.
        """
        self._write(self._clock.monotonic(), self._clock.wall_ms(), _word(name), reading, context)

    def close(self) -> None:
        """Ends the file; rows that come later are left out."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                with suppress(OSError):
                    self._file.close()

    def _open(self, path: Path) -> FileIO | None:
        """The file, for appending; None when it cannot be written, so that every row is dropped."""
        try:
            head, tail = _ends(path)
            # Unbuffered: what a full disk refused is not tried again when the file is closed.
            file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run
        except OSError:
            return None
        if HEADER.encode().startswith(head):
            self._owed = self._owed[len(head) :]
        elif head.split(b"\n")[0].rstrip(b"\r") == HEADER.strip().encode():
            self._owed = b"" if tail.endswith(b"\n") else b"\n"
        else:
            file.close()
            raise not_a_trace(path, head.decode(errors="replace").split("\n"))
        self._go_on_after(tail)
        return file

    def _go_on_after(self, tail: bytes) -> None:
        """Takes the time from the last whole row, if there is one."""
        for line in reversed(tail.decode(errors="replace").split("\n")):
            cells = line.rstrip("\r").split(",")
            if is_torn(cells):
                continue
            with suppress(ValueError):
                row = row_of(cells)
                passed = (self._clock.wall_ms() - row.t_wall_utc_ms) / 1000
                self._last_seconds = row.t_mono_s + max(0.0, passed)
                self._offset_seconds += self._last_seconds
                return

    def _write(
        self, mono_s: float, wall_ms: int, action: str, reading: Reading | None, context: Context
    ) -> None:
        with self._lock:
            if self._closed:
                return
            # A poll's row may be written after that of an action which came later.
            self._last_seconds = seconds = max(self._last_seconds, mono_s + self._offset_seconds)
            line = (
                f"{seconds:.3f},{wall_ms},{self._run_id},{context.phase},{context.opt_step},"
                f"{context.micro_step},{context.tokens_total},{_sensor_cells(reading)},"
                f"{_word(context.tier)},{_number(context.duty)},{action},{_number(context.sleep_s)},"
                f"{_number(context.tok_s_active)},{'' if reading is None else reading.quality},"
                f"{SCHEMA_VERSION}\n"
            )
            self._append(line.encode())

    def _append(self, row: bytes) -> None:
        """Writes what is owed and the row; one torn by a full disk stays a line of its own."""
        rest = self._owed + row
        try:
            while rest and self._file is not None:
                rest = rest[self._file.write(rest) :]
        except OSError:
            pass  # the row is dropped and counted below
        if not rest:
            self._owed = b""
            return
        self.dropped += 1
        if len(rest) > len(row):
            self._owed = rest[: len(rest) - len(row)]
        elif len(rest) < len(row):
            self._owed = b"\n"
        else:
            self._owed = b""


def _ends(path: Path) -> tuple[bytes, bytes]:
    """The first and the last bytes of a file, none of one that is not there."""
    if not path.exists():
        return b"", b""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(_HEAD_BYTES)
        file.seek(max(0, size - _TAIL_BYTES))
        return head, file.read()


def read_trace(path: Path) -> list[TraceRow]:
    """All rows of a trace; lines that a kill or a full disk cut short are left out.

    Raises:
        ConfigError: there is no such file, it is no trace, or a newer version wrote it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        remedy = f"Give the {TRACE_FILE} of a run that had thermal tracing."
        raise ConfigError(problem("a thermal trace", reason, remedy, where=str(path))) from None
    lines = text.split("\n")[:-1]  # what follows the last newline is empty, or torn
    if not lines and HEADER.startswith(text):
        return []
    if not lines or lines[0].rstrip("\r") != HEADER.strip():
        raise not_a_trace(path, lines or [text])
    return list(_rows(path, lines))


def _rows(path: Path, lines: Sequence[str]) -> Iterator[TraceRow]:
    for number, line in enumerate(lines[1:], start=2):
        cells = line.rstrip("\r").split(",")
        if is_torn(cells):
            continue
        if cells[-1].isdigit() and int(cells[-1]) > SCHEMA_VERSION:
            raise newer_trace(f"{path}:{number}", cells[-1])
        try:
            yield row_of(cells)
        except ValueError as error:
            wanted = f"a row of a thermal trace, {len(COLUMNS)} columns"
            remedy = "Put the file back as the run wrote it, or take this line out."
            raise ConfigError(problem(wanted, str(error), remedy, where=f"{path}:{number}")) from None


_NO_SENSORS = "," * (COLUMNS.index("fan_rpm") - COLUMNS.index("source"))
_SEPARATORS = str.maketrans(dict.fromkeys(',"\r\n', " "))


def _sensor_cells(reading: Reading | None) -> str:
    """The columns from `source` to `fan_rpm`."""
    if reading is None:
        return _NO_SENSORS
    raw = reading.raw
    pressure = "" if raw.pressure is None else raw.pressure
    throttle_bits = "" if raw.throttle_bits is None else raw.throttle_bits
    return (
        f"{_word(reading.source)},{_number(reading.temp_ctrl_c)},{_number(reading.temp_filt_c)},"
        f"{_number(reading.cpu_avg_c)},{_number(reading.cpu_max_c)},"
        f"{_number(reading.gpu_avg_c)},{_number(reading.gpu_max_c)},{reading.n_valid},"
        f"{_number(reading.chassis_c)},{pressure},{throttle_bits},"
        f"{_number(raw.sys_power_w)},{_number(raw.gpu_power_w)},{_number(raw.gpu_mhz)},"
        f"{_number(raw.gpu_util)},{_number(raw.fan_rpm)}"
    )


def _number(value: float | None) -> str:
    """Three decimals; empty for None, NaN and infinities."""
    return "" if value is None or value - value != 0 else f"{value:.3f}"


def _word(text: str) -> str:
    """The text without what would end its cell."""
    return text.translate(_SEPARATORS)
