"""The thread that mirrors a run to MLflow while it trains, and never gets in its way."""

import logging
import shlex
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bit_axon.tracking.environment import prepare_environment
from bit_axon.tracking.location import absolute_uri, plain_reason, redacted
from bit_axon.tracking.locks import mirroring
from bit_axon.tracking.points import METRICS_FILE

if TYPE_CHECKING:
    from bit_axon.tracking.mirror import Mirror

_log = logging.getLogger(__name__)
_LIVE_READ_BYTES = 1 << 14  # about fifty steps: a short burst, so that training keeps the interpreter
_MAX_DUTY = 0.05  # of the time, at most, spent mirroring while the run trains
_FIRST_BACKOFF_SECONDS = 1.0
_MAX_BACKOFF_SECONDS = 60.0
_CLOSING_ATTEMPTS = 2
_SILENT_SECONDS = 1.5


def print_to_stderr(text: str) -> None:
    """The default way to say something: one line on the error stream."""
    print(text, file=sys.stderr)


class TrackingWriter:
    """Mirrors a run directory in a daemon thread; the training thread only calls `notify`.

    MLflow is imported in the thread, `start_delay_seconds` after the start or at the end: importing it
    takes two seconds of a core, which a short run would feel and a long one does not. Errors are said
    once and tried again later; none reaches the caller. `say` is called from the thread.

    With `leaves_short_runs` a run that ends before MLflow was needed is left to whoever started it: a
    sweep imports MLflow once, not once per trial.
    """

    def __init__(
        self,
        run_dir: Path,
        uri: str | None,
        experiment: str,
        *,
        say: Callable[[str], None] = print_to_stderr,
        flush_seconds: float = 1.0,
        start_delay_seconds: float = 60.0,
        leaves_short_runs: bool = False,
    ) -> None:
        self._run_dir = run_dir
        self._uri = absolute_uri(uri)
        self._experiment = experiment
        self._say = say
        self._flush_seconds = flush_seconds
        self._start_delay_seconds = start_delay_seconds
        self._leaves_short_runs = leaves_short_runs
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._complete = False
        self._backoff_seconds = 0.0
        self._mirror: Mirror | None = None
        self._thread = threading.Thread(target=self._work, name="bit_axon-tracking", daemon=True)

    def start(self) -> None:
        """Starts the thread; it sleeps until there is something to do."""
        prepare_environment(self._say)
        self._thread.start()

    def notify(self) -> None:
        """Tells the thread that `metrics.jsonl` has grown; takes a microsecond."""
        self._wake.set()

    def close(self, deadline_seconds: float = 20.0) -> bool:
        """Sends what is left, for at most `deadline_seconds`; call it after `result.json` is written.

        Returns:
            True when MLflow has everything. Otherwise the command that catches up was printed.
        """
        if self._thread.ident is None:
            return True
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout=min(_SILENT_SECONDS, deadline_seconds))
        if self._thread.is_alive() and deadline_seconds > _SILENT_SECONDS:
            self._say("tracking: sending the rest to MLflow ...")
            self._thread.join(timeout=deadline_seconds - _SILENT_SECONDS)
        self._abandoned.set()
        if self._complete:
            return True
        command = shlex.join(["bit-axon", "track", "sync", str(self._run_dir)])
        self._say(
            f"tracking: MLflow has not got all of this run; nothing is lost, send it later with:\n  {command}"
        )
        return False

    def _work(self) -> None:
        self._closing.wait(self._start_delay_seconds)
        if self._closing.is_set() and self._leaves_short_runs:
            self._complete = True
            return
        with ExitStack() as held:
            while not self._closing.is_set():
                self._wake.clear()
                more = self._attempt(held)
                if not more:
                    self._wake.wait()
            self._finish(held)

    def _attempt(self, held: ExitStack) -> bool:
        """One pass over what is new, and the rest that keeps it cheap; True when there is more to do."""
        started = time.perf_counter()
        try:
            more = self._attached(held).advance(_LIVE_READ_BYTES)
        except Exception as error:  # whatever a store or a driver raises, training must not see it
            self._failed(error)
            self._closing.wait(self._backoff_seconds)
            return True
        self._recovered()
        busy_seconds = time.perf_counter() - started
        self._closing.wait(max(self._flush_seconds, busy_seconds / _MAX_DUTY - busy_seconds))
        return more

    def _finish(self, held: ExitStack) -> None:
        for attempt in range(_CLOSING_ATTEMPTS):
            if attempt:
                self._abandoned.wait(_FIRST_BACKOFF_SECONDS)
            if self._abandoned.is_set():
                return
            try:
                self._finish_once(self._attached(held))
            except Exception as error:  # as above: said, and left to `track sync`
                self._failed(error)
            else:
                return

    def _finish_once(self, mirror: "Mirror") -> None:
        while mirror.advance():
            if self._abandoned.is_set():
                return
        mirror.finish()
        self._complete = True

    def _attached(self, held: ExitStack) -> "Mirror":
        """The mirror, connected; made at the first call that succeeds."""
        if self._mirror is not None:
            return self._mirror
        # The one late import of the package: MLflow takes two seconds, which are hidden in this thread.
        from bit_axon.tracking.mirror import Mirror
        from bit_axon.tracking.store import open_store

        with ExitStack() as lock:
            lock.enter_context(mirroring(self._run_dir))
            mirror = Mirror(self._run_dir, open_store(self._uri, self._experiment))
            mirror.attach()
            mirror.mark_running()
            held.push(lock.pop_all())
        self._mirror = mirror
        return mirror

    def _failed(self, error: Exception) -> None:
        _log.debug("mirroring %s failed", self._run_dir, exc_info=error)
        if self._backoff_seconds == 0.0:
            self._backoff_seconds = _FIRST_BACKOFF_SECONDS
            self._say(
                f"tracking: {plain_reason(error, self._uri)}. The run goes on; its metrics are in "
                f"{self._run_dir / METRICS_FILE} and are sent when the store is back."
            )
        else:
            self._backoff_seconds = min(2 * self._backoff_seconds, _MAX_BACKOFF_SECONDS)

    def _recovered(self) -> None:
        if self._backoff_seconds:
            self._backoff_seconds = 0.0
            self._say(f"tracking: {redacted(self._uri)} is back; what it missed is being sent")
