"""Mirrors a sweep to MLflow while it goes on, in a thread of the sweep's own process.

MLflow is imported once, here, and not in each trial; a trial that is long mirrors itself.
"""

import logging
import os
import shlex
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from bit_axon.errors import StorageError
from bit_axon.sweep.reporting.finding import Sweep
from bit_axon.sweep.reporting.ledger import State, tell
from bit_axon.sweep.studies.storage import reason_of, storage_url
from bit_axon.tracking.environment import prepare_environment
from bit_axon.tracking.location import absolute_uri, plain_reason
from bit_axon.tracking.writer import print_to_stderr

if TYPE_CHECKING:
    from bit_axon.tracking.store import Store

_log = logging.getLogger(__name__)
_PAUSE_SECONDS: Final = 5.0  # between two passes while the sweep goes on
_DEADLINE_SECONDS: Final = 120.0
_SILENT_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Target:
    """Where a sweep is mirrored to; `enabled` false leaves its report on disk alone."""

    enabled: bool = True
    uri: str | None = None
    experiment: str = "bit_axon"


class SweepMirror:
    """Sends ended trials and the parent's news in a thread; errors are said once, none reaches the caller.

    Args:
        folder: the sweep's.
        find: gives the study or grid, for the thread alone.
        target: where to.
        say: is told what goes wrong; called from the thread.
        pause_seconds: the shortest time between two passes.
    """

    def __init__(
        self,
        folder: Path,
        find: Callable[[], Sweep],
        target: Target,
        *,
        say: Callable[[str], None] = print_to_stderr,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        self._folder, self._find, self._target, self._say = folder, find, target, say
        self._uri = absolute_uri(target.uri)
        self._pause_seconds = pause_seconds
        self._wake, self._closing = threading.Event(), threading.Event()
        self._state: State = "running"
        self._complete = self._has_failed = False
        self._sweep: Sweep | None = None
        self._store: Store | None = None
        self._thread = threading.Thread(target=self._work, name="bit_axon-sweep-mirror", daemon=True)

    def start(self) -> None:
        """Tells that the sweep goes on, and starts the thread; it sleeps until a trial has ended."""
        self._tell("running")
        prepare_environment(self._say)
        self._thread.start()

    def notify(self) -> None:
        """A trial has ended."""
        self._wake.set()

    def close(self, state: State, deadline_seconds: float = _DEADLINE_SECONDS) -> bool:
        """Writes the report, sends what is left, for at most `deadline_seconds`.

        `state` is how the sweep ended in this process; a study that others work on goes on all the same.

        Returns:
            True when MLflow has everything. Otherwise the command that catches up was said.
        """
        self._state = state
        self._tell(state)
        self._closing.set()
        self._wake.set()
        self._thread.join(min(_SILENT_SECONDS, deadline_seconds))
        if self._thread.is_alive() and deadline_seconds > _SILENT_SECONDS:
            rest = " and sending the rest to MLflow" if self._target.enabled else ""
            self._say(f"Writing the sweep's report{rest} ...")
            self._thread.join(deadline_seconds - _SILENT_SECONDS)
        if self._complete:
            return True
        command = shlex.join(["bit-axon", "track", "sync", str(self._folder)])
        self._say(
            f"tracking: MLflow has not got all of this sweep; nothing is lost, send it with:\n  {command}"
        )
        return False

    def _tell(self, state: State) -> None:
        """For whoever looks from outside; a full disk is said by the trials."""
        with suppress(StorageError):
            tell(self._folder, state)

    def _work(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            if not self._closing.is_set() and self._target.enabled:
                self._attempt(self._send)
                self._closing.wait(self._pause_seconds)
        self._complete = self._attempt(self._finish)

    def _attempt(self, action: Callable[[], bool]) -> bool:
        try:
            return action()
        except Exception as error:  # whatever a store or a driver raises, the sweep must not see it
            _log.debug("mirroring %s failed", self._folder, exc_info=error)
            if not self._has_failed:
                self._say(f"tracking: {self._why(error)}. The sweep goes on.")
            self._has_failed = True
        return False

    def _why(self, error: Exception) -> str:
        """A study that does not answer is no MLflow server that does not answer."""
        if isinstance(error, StorageError):
            cause = error.__cause__
            if isinstance(cause, SQLAlchemyError | StorageInternalError):
                return f"the study's storage: {reason_of(cause, storage_url(self._folder, os.environ))}"
            return str(error).rstrip(".")
        return plain_reason(error, self._uri)

    def _send(self) -> bool:
        # Late, as MLflow and matplotlib take seconds that a sweep's first trial would feel.
        from bit_axon.sweep.reporting.publish import publish

        now = replace(self._found(), patience_seconds=0.0)  # there is a next time
        return not publish(now, self._folder, self._opened(), "running").left_out

    def _finish(self) -> bool:
        from bit_axon.sweep.reporting.results import write_report

        files = write_report(self._found().report(has_ended=True), self._folder)
        if not self._target.enabled:
            return True
        from bit_axon.sweep.reporting.publish import publish

        published = publish(self._found(), self._folder, self._opened(), self._state, files)
        return not published.left_out

    def _found(self) -> Sweep:
        if self._sweep is None:
            self._sweep = self._find()
        return self._sweep

    def _opened(self) -> "Store":
        from bit_axon.tracking.store import open_store

        if self._store is None:
            self._store = open_store(self._uri, self._target.experiment)
        return self._store
