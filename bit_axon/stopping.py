"""Stopping on request: the first Ctrl-C or SIGTERM ends the run in a checkpoint, the second at once."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130
LEAVES_AT_ONCE = "BIT_AXON_LEAVES_AT_ONCE"  # set for processes that run one job and end
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave(code: int) -> NoReturn:
    """Ends the process, after its exit handlers; one that ran a job does not take its objects apart first.

    That takes 0.4 s, which a search would pay for every trial, and frees what the system frees anyway.
    """
    if os.environ.get(LEAVES_AT_ONCE):
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


class StopRequest:
    """A flag the loop asks between micro-batches.

    Args:
        first: what a person is told at the first signal.
        second: at the second, which ends the process.
    """

    def __init__(
        self,
        first: str = "Stopping after this micro-batch, with a checkpoint. Again: at once.",
        second: str = "Stopped at once; the last checkpoint is kept.",
    ) -> None:
        self._requested = False
        self._first, self._second = first, second
        self._outer: StopRequest | None = None

    def __call__(self) -> bool:
        """Whether a stop was asked for, also of one that listened before this one."""
        return self._requested or (self._outer is not None and self._outer())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            sys.stderr.write(f"\n{self._second}\n")
            sys.stderr.flush()
            os._exit(EXIT_INTERRUPTED)
        self._requested = True
        sys.stderr.write(f"\n{self._first}\n")

    @contextmanager
    def installed(self) -> Iterator["StopRequest"]:
        """Listens to the signals within the block; outside the main thread there are none to hear."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        outer = getattr(previous[signal.SIGINT], "__self__", None)
        self._outer = outer if isinstance(outer, StopRequest) else None
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
