"""Clocks: the system's, and a virtual one in which an hour takes milliseconds.

Everything thermal takes its clock as an argument. Only monotonic time drives control, so a wall clock
that is set back or forward changes nothing but time stamps.
"""

import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

_SLICE_SECONDS = 0.1  # how soon a sleep notices that it is to end


class Repeater(Protocol):
    """An action that is repeated until it is stopped."""

    def stop(self) -> None:
        """Returns once no further call will be made."""

    def is_alive(self) -> bool:
        """False once the action was stopped, or died of an error."""


class Clock(Protocol):
    """Time, as control and monitoring see it."""

    @property
    def is_virtual(self) -> bool:
        """Whether seconds of this clock are other than the process's own."""

    def monotonic(self) -> float:
        """Seconds, never backwards; they stand still while the machine sleeps."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds; for time stamps only."""

    def suspended_seconds(self) -> float:
        """How long the machine has slept since some fixed moment."""

    def sleep(self, seconds: float, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Waits; ends early once `interrupted()` is true."""

    def every(self, seconds: float, action: Callable[[], None]) -> Repeater:
        """Calls `action` again and again, the first time after `seconds`."""


class SystemClock:
    """The process's own time; repeated actions run in a daemon thread each."""

    is_virtual = False

    def monotonic(self) -> float:
        """`time.perf_counter`: it stands still while the machine sleeps, on macOS and Linux."""
        return time.perf_counter()

    def wall_ms(self) -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    def suspended_seconds(self) -> float:
        """The distance between a clock that runs on while the machine sleeps and one that does not."""
        if sys.platform == "darwin":
            return time.clock_gettime(time.CLOCK_MONOTONIC_RAW) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
        elif sys.platform == "linux":
            return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
        else:
            return 0.0

    def sleep(self, seconds: float, interrupted: Callable[[], bool] = lambda: False) -> None:
        """In slices, so that an interrupt is heard."""
        end = self.monotonic() + seconds
        while (rest := end - self.monotonic()) > 0 and not interrupted():
            time.sleep(min(rest, _SLICE_SECONDS))

    def every(self, seconds: float, action: Callable[[], None]) -> Repeater:
        """A daemon thread; what `action` raises ends it and goes to `threading.excepthook`."""
        return _RepeatingThread(seconds, action)


class _RepeatingThread:
    def __init__(self, seconds: float, action: Callable[[], None]):
        self._seconds, self._action = seconds, action
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="thermal", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            self._action()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)  # a source that hangs must not hold up the end of the run

    def is_alive(self) -> bool:
        return self._thread.is_alive()


class VirtualClock:
    """Time that moves only when it is told to; repeated actions happen at their moments on the way.

    Args:
        wall_ms: Unix time in milliseconds at its beginning.
    """

    is_virtual = True

    def __init__(self, wall_ms: int = 1_700_000_000_000):
        self._now = 0.0
        self._wall_ms = wall_ms
        self._suspended = 0.0
        self._repeaters: list[_VirtualRepeater] = []

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._now

    def wall_ms(self) -> int:
        """The beginning's time, moved on."""
        return self._wall_ms + round((self._now + self._suspended) * 1000)

    def suspended_seconds(self) -> float:
        """The sum of what was slept through."""
        return self._suspended

    def sleep(self, seconds: float, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Moves time on, unless interrupted at once."""
        if not interrupted():
            self.advance(seconds)

    def every(self, seconds: float, action: Callable[[], None]) -> Repeater:
        """Calls `action` whenever `advance` passes its moment."""
        repeater = _VirtualRepeater(self._now + seconds, seconds, action)
        self._repeaters.append(repeater)
        return repeater

    def advance(self, seconds: float) -> None:
        """Moves time on; a repeated action that is due sees the moment at which it was."""
        end = self._now + seconds
        while due := [r for r in self._repeaters if r.alive and r.next_seconds <= end]:
            first = min(due, key=lambda repeater: repeater.next_seconds)
            self._now = max(self._now, first.next_seconds)
            first.next_seconds += first.seconds
            first.call()
        self._now = max(self._now, end)
        self._repeaters = [r for r in self._repeaters if r.alive]

    def suspend(self, seconds: float) -> None:
        """The machine sleeps: monotonic time stands still, wall time does not."""
        self._suspended += seconds

    def set_wall(self, milliseconds: int) -> None:
        """Somebody sets the wall clock."""
        self._wall_ms += milliseconds


class _VirtualRepeater:
    def __init__(self, next_seconds: float, seconds: float, action: Callable[[], None]):
        self.next_seconds, self.seconds, self.action = next_seconds, seconds, action
        self.alive = True

    def call(self) -> None:
        try:
            self.action()
        except BaseException:
            self.alive = False  # as a thread's would be
            raise

    def stop(self) -> None:
        self.alive = False

    def is_alive(self) -> bool:
        return self.alive
