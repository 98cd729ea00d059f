"""One child process: its output followed, its signals, its time limit, and why it ended."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from bit_axon.stopping import EXIT_INTERRUPTED

DEADLINE: Final = "BIT_AXON_DEADLINE"  # for the child: when its time is up, on the monotonic clock, which all
# processes of a machine share and which stands still while it sleeps
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_POLL_SECONDS: Final = 0.05
_TAIL_BYTES: Final = 16384
_EXIT_THERMAL: Final = 3
_MESSAGE_CHARACTERS: Final = 500
_KERNEL_COUNTERS: Final = Path("/proc/vmstat")  # Linux
# What Python, C++, MLX on Metal and on CUDA, and the driver say when memory ran out.
OUT_OF_MEMORY: Final = re.compile(
    r"MemoryError|std::bad_alloc|out of memory|OutOfMemory|insufficient memory|unable to allocate"
    r"|cannot allocate memory|attempting to allocate \d+ bytes|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Limits:
    """What a child may take.

    Attributes:
        timeout_seconds: from its start; None = no limit.
        grace_seconds: between being told to stop and being killed.
        show_output: print its lines as they come.
    """

    timeout_seconds: float | None = None
    grace_seconds: float = 30.0
    show_output: bool = True


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    Attributes:
        exit_code: of the process; the negative number of the signal that ended it.
        reason: None when it ended well, else one of out_of_memory, timeout, interrupted, thermal_stop,
            killed, exception, storage.
        message: its last words.
        stopped: the signal that this process was sent meanwhile, and passed on.
    """

    exit_code: int
    reason: str | None
    message: str
    stopped: int | None = None


def run_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    limits: Limits,
    show: Callable[[str], None],
) -> Ending:
    """Runs a command to its end; standard output and errors go to `log`, and from there to `show`.

    The child writes to a file and not to a pipe, so that it lives on when this process is killed. It has
    a process group of its own: a Ctrl-C in the terminal reaches this process alone, which passes it on
    once; a second one kills.

    Raises:
        OSError: the child could not be started, or the log not be made.
    """
    kills_before = _kernel_memory_kills()
    with _listening(limits.grace_seconds) as stop, open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,
        )
        follower = _Follower(log, show if limits.show_output else lambda line: None)
        try:
            timed_out = _wait(process, stop, limits, follower)
        except BaseException:  # what shows the lines broke: the child must not outlive this call
            _end(process, limits.grace_seconds)
            raise
    tail = follower.tail()
    by_kernel = _kernel_memory_kills() > kills_before
    reason = _reason(process.returncode, tail, stop.number, by_kernel)
    if timed_out and reason is not None:
        reason = "timeout"
    return Ending(process.returncode, reason, _message(process.returncode, tail), stop.number)


def _wait(process: subprocess.Popen[bytes], stop: "_Stop", limits: Limits, follower: "_Follower") -> bool:
    """Until the process is gone and its last line shown; whether its time was up."""
    deadline = None if limits.timeout_seconds is None else time.monotonic() + limits.timeout_seconds
    kill_at: float | None = None
    timed_out = False
    while _still_runs(process):
        follower.follow()
        now = time.monotonic()
        if kill_at is None and stop.number is not None:
            process.send_signal(stop.number)
            kill_at = now + limits.grace_seconds
        elif kill_at is None and deadline is not None and now >= deadline:
            timed_out = True
            process.terminate()
            kill_at = now + limits.grace_seconds
        elif kill_at is not None and (now >= kill_at or stop.again):
            _kill_group(process)
    follower.follow(last=True)
    return timed_out


def _still_runs(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _end(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    process.terminate()
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """The child and what it started; it is not reaped yet, so the number is still its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


class _Stop:
    """The first signal this process was sent, and whether there was a second."""

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self.number: int | None = None
        self.again = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            self.again = True
            return
        self.number = number
        sys.stderr.write(f"\nStopping the job that runs; it has {self._grace_seconds:g} s. Again: at once.\n")


@contextmanager
def _listening(grace_seconds: float) -> Iterator[_Stop]:
    """Collects signals within the block; outside the main thread there are none to hear."""
    stop = _Stop(grace_seconds)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, stop.handle) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Follower:
    """Shows a file's lines as they are written, and keeps the last of them."""

    def __init__(self, path: Path, show: Callable[[str], None]):
        self._path, self._show = path, show
        self._offset = 0
        self._rest = b""

    def follow(self, *, last: bool = False) -> None:
        """Shows the lines that are complete; at the end, the incomplete one too."""
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            new = file.read()
        self._offset += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        if last and self._rest:
            lines.append(self._rest)
        for line in lines:
            self._show(_as_shown(line))

    def tail(self) -> list[str]:
        """The last lines, without empty ones."""
        with open(self._path, "rb") as file:
            file.seek(max(0, self._offset - _TAIL_BYTES))
            lines = file.read().split(b"\n")
        return [text for line in lines if (text := _as_shown(line)).strip()]


def _nothing(line: str) -> None:
    """For output that is kept in the log alone."""


def _as_shown(line: bytes) -> str:
    """What a terminal would show of it: a progress bar's last state."""
    return line.decode("utf-8", "replace").rstrip().rpartition("\r")[2]


def _reason(exit_code: int, tail: Sequence[str], stopped: int | None, by_kernel: bool) -> str | None:
    if exit_code == 0:
        return None
    if exit_code in (EXIT_INTERRUPTED, *(-number for number in _SIGNALS)) or stopped is not None:
        return "interrupted"
    if exit_code == _EXIT_THERMAL:
        return "thermal_stop"
    killed = exit_code == -signal.SIGKILL
    if (killed and by_kernel) or any(map(OUT_OF_MEMORY.search, tail)):
        return "out_of_memory"
    return "killed" if exit_code < 0 else "exception"


def _message(exit_code: int, tail: Sequence[str]) -> str:
    """What the child said last, its own message if there is one; a signal by its name."""
    own = [line.removeprefix("bit_axon: ") for line in tail if line.startswith("bit_axon: ")]
    said = (own or list(tail) or [""])[-1].strip()[:_MESSAGE_CHARACTERS]
    if exit_code == 0:
        return ""
    ended = f"ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
    return f"{ended}: {said}" if said else ended


def _kernel_memory_kills() -> int:
    """How many processes the kernel has killed for want of memory; 0 where it does not say."""
    try:
        text = _KERNEL_COUNTERS.read_text()
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found.group(1)) if found else 0
