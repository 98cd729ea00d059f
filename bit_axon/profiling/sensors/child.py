"""A helper process that lives as long as the run and writes one record after another."""

import atexit
import math
import os
import selectors
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from bit_axon.errors import SensorError, problem
from bit_axon.profiling.clock import Clock

_CHUNK_BYTES: Final = 65536
_RECORD_BYTES: Final = 4 << 20  # a longer "record" is none: the child has forgotten its terminator
_ERROR_BYTES: Final = 2000
_ERROR_LINES: Final = 3
_SLICE_SECONDS: Final = 0.2  # how soon the listening thread notices that it is to end


@dataclass(frozen=True)
class Patience:
    """How long a child may be silent, and what is done when it ends.

    Attributes:
        restarts: how often it is started again, in all.
        backoff_seconds: before the first restart; doubled before each further one.
        grace_seconds: between being asked to end and being killed.
    """

    restarts: int = 3
    backoff_seconds: float = 1.0
    grace_seconds: float = 2.0


class Child:
    """The newest record of a process that is started again when it ends.

    The process reads nothing (stdin is /dev/null, so it cannot prompt), is in a process group of its own
    (Ctrl-C in the terminal does not reach it) but in the same session: sudo keeps its tickets by terminal.

    Args:
        command: program and arguments; no shell.
        terminator: what ends a record; it is not part of it.
        clock: tells the age of records and when a restart is due.
        patience: of restarts.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        clock: Clock,
        terminator: bytes = b"\n",
        patience: Patience = Patience(),
    ):
        self._command, self._terminator = tuple(command), terminator
        self._clock, self._patience = clock, patience
        self._lock = threading.Lock()  # one thread polls, another closes
        self._life: _Life | None = None
        self._record: tuple[float, bytes] | None = None  # of an earlier life
        self._restarts = 0
        self._due_seconds: float | None = None  # when the next restart is

    @property
    def pid(self) -> int | None:
        """Of the process and of its group; None when there is none."""
        return self._life.pid if self._life else None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._life is not None and self._life.alive

    def start(self) -> None:
        """Starts the process.

        Raises:
            SensorError: it cannot be started.
        """
        with self._lock:
            self._life = _Life(self._command, self._terminator, self._clock)
            atexit.register(self.close)

    def first(self, timeout_seconds: float) -> bytes:
        """The first record; waits for it in real time, for the process has no other.

        Raises:
            SensorError: the process ended, or was silent for `timeout_seconds`.
        """
        life = self._life
        if life is not None:
            life.heard.wait(timeout_seconds)
            if life.record is not None:
                return life.record[1]
        raise SensorError(self._complaint(f"its first record within {timeout_seconds:g} s"))

    def latest(self, max_age_seconds: float) -> bytes:
        """The newest record. Starts the process again when it has ended, or has been silent for long.

        Raises:
            SensorError: there is no record younger than `max_age_seconds`.
        """
        with self._lock:
            self._keep_running(silence_seconds=2 * max_age_seconds)
            record = self._newest()
            if record is not None and self._clock.monotonic() - record[0] <= max_age_seconds:
                return record[1]
            raise SensorError(self._complaint(f"a record not older than {max_age_seconds:g} s"))

    def close(self) -> None:
        """Ends the process and its group."""
        with self._lock:
            if self._life is not None:
                self._life.end(self._patience.grace_seconds)
            self._life = self._record = None
        atexit.unregister(self.close)

    def _newest(self) -> tuple[float, bytes] | None:
        return (self._life.record if self._life else None) or self._record

    def _keep_running(self, silence_seconds: float) -> None:
        life, now = self._life, self._clock.monotonic()
        if life is None:
            return
        if life.alive:
            if now - life.last_seconds <= silence_seconds:
                return
            life.end(self._patience.grace_seconds)
        if self._restarts == self._patience.restarts:
            return
        if self._due_seconds is None:
            self._due_seconds = now + self._patience.backoff_seconds * 2**self._restarts
        elif now >= self._due_seconds:
            self._restarts, self._due_seconds = self._restarts + 1, None
            self._record = self._newest()
            life.end(self._patience.grace_seconds)
            self._life = _Life(self._command, self._terminator, self._clock)

    def _complaint(self, wanted: str) -> str:
        remedy = "Try the command in a terminal, or choose another thermal.source."
        if self._due_seconds is not None:
            remedy = f"It is started again soon ({self._restarts + 1} of {self._patience.restarts} times)."
        elif self._restarts:
            remedy = f"It was started again {self._restarts} times. {remedy}"
        got = self._life.state() if self._life else "no process: it was not started, or was closed"
        return problem(f"{wanted} from `{shlex.join(self._command)}`", got, remedy)


class _Life:
    """One run of the process, with a daemon thread that listens to what it writes."""

    def __init__(self, command: Sequence[str], terminator: bytes, clock: Clock):
        self._terminator, self._clock = terminator, clock
        self._rest = self._errors = b""
        self._stopping = threading.Event()
        self.heard = threading.Event()  # the first record, or the end of all records
        self.record: tuple[float, bytes] | None = None
        self._process = _spawned(command)
        self.last_seconds = clock.monotonic()
        self._thread = threading.Thread(target=self._listen, name="sensor child", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def state(self) -> str:
        """Words for an error message: how it ended, and its last lines on stderr."""
        if self.record is None and self.heard.is_set():  # the pipe ended; the exit code is a moment behind
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_SLICE_SECONDS)
        code = self._process.poll()
        if code is not None:
            self._thread.join(_SLICE_SECONDS)  # the last lines, too
        state = "silence" if code is None else f"its end with exit code {code}"
        lines = [line.strip() for line in self._errors.decode(errors="replace").splitlines() if line.strip()]
        return ": ".join([state, *([" / ".join(lines[-_ERROR_LINES:])] if lines else [])])

    def end(self, grace_seconds: float) -> None:
        """Asks the process to end, then kills it.

        A process of root (sudo) may not be signalled; it dies of the closed pipe at its next record.
        """
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal(number)
            self._stopping.set()
            self._thread.join()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_seconds)

    def _signal(self, number: int) -> None:
        if self.alive:  # otherwise its number may be another's by now
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _listen(self) -> None:
        assert self._process.stdout is not None and self._process.stderr is not None
        with (
            self._process.stdout as out,
            self._process.stderr as err,
            selectors.DefaultSelector() as selector,
        ):
            selector.register(out, selectors.EVENT_READ, self._take)
            selector.register(err, selectors.EVENT_READ, self._take_error)
            while selector.get_map() and not self._stopping.is_set():
                for key, _ in selector.select(_SLICE_SECONDS):
                    data = os.read(key.fd, _CHUNK_BYTES)
                    key.data(data)
                    if not data:
                        selector.unregister(key.fileobj)
        self.heard.set()

    def _take(self, data: bytes) -> None:
        *records, self._rest = (self._rest + data).split(self._terminator)
        complete = [record for record in records if record.strip()]
        if complete:
            self.last_seconds = self._clock.monotonic()
            self.record = (self.last_seconds, complete[-1])
            self.heard.set()
        if len(self._rest) > _RECORD_BYTES:
            self._rest = b""

    def _take_error(self, data: bytes) -> None:
        self._errors = (self._errors + data)[-_ERROR_BYTES:]


def _spawned(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, bufsize=0, process_group=0
        )
    except OSError as error:
        wanted = f"to start `{shlex.join(command)}`"
        remedy = "Install it, or choose another thermal.source."
        raise SensorError(problem(wanted, error.strerror or str(error), remedy)) from error


def number(values: Mapping[str, Any], key: str) -> float | None:
    """`values[key]` where it is a finite number; None where it is missing or something else."""
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
