"""Stopping on request: the first Ctrl-C or SIGTERM ends the run in a checkpoint, the second at once."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """A flag the loop asks between micro-batches."""

    def __init__(self) -> None:
        self._requested = False

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self._requested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            sys.stderr.write("\nStopped at once; the last checkpoint is kept.\n")
            sys.stderr.flush()
            os._exit(EXIT_INTERRUPTED)
        self._requested = True
        sys.stderr.write("\nStopping after this micro-batch, with a checkpoint. Again: at once.\n")

    @contextmanager
    def installed(self) -> Iterator["StopRequest"]:
        """Listens to the signals within the block; outside the main thread there are none to hear."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
