"""One process at a time changes which trials a study has: it makes the tables, asks, and buries the dead."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from bit_axon.errors import StorageError, problem
from bit_axon.sweep.studies.storage import heed, make_engine, never
from bit_axon.tracking.location import redacted, sqlite_path
from bit_axon.tracking.locks import file_lock

WAIT_SECONDS: Final = 180.0
_POLL_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 0.5  # between two looks whether to stop waiting
_KEY: Final = 0x6269745F61786F6E  # "bit_axon", as the 64-bit number PostgreSQL wants
_TRY: Final = sqlalchemy.text("SELECT pg_try_advisory_xact_lock(:key)")


@contextmanager
def study_lock(
    storage: str, wait_seconds: float = WAIT_SECONDS, *, stop: Callable[[], bool] = never
) -> Iterator[None]:
    """Held by one process of all that share `storage`; not by the same process twice.

    SQLite: `flock` on a file beside the database. PostgreSQL: an advisory lock of the database. Both end with
    the process that holds them, however it ends.

    Args:
        storage: an absolute URL.
        wait_seconds: how long it is waited for.
        stop: asked while it waits; true ends that.

    Raises:
        StorageError: another process held it all the time.
        ConfigError: the driver is not installed, or the address cannot be read.
        OperationalError: PostgreSQL cannot be reached.
        KeyboardInterrupt: `stop` said so.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(_lock_for(storage, wait_seconds, stop))
        except TimeoutError as error:
            raise StorageError(
                problem(
                    f"the lock of the study storage {redacted(storage)}",
                    f"another process that has held it for {wait_seconds:.0f} s",
                    "Look for a worker that hangs, and end it.",
                )
            ) from error
        yield


def _lock_for(storage: str, wait_seconds: float, stop: Callable[[], bool]) -> AbstractContextManager[None]:
    database = sqlite_path(storage)
    if database is None:
        return _advisory_lock(storage, wait_seconds, stop)
    return _lock_of_file(database.with_name(database.name + ".lock"), wait_seconds, stop)


@contextmanager
def _lock_of_file(path: Path, wait_seconds: float, stop: Callable[[], bool]) -> Iterator[None]:
    deadline = time.monotonic() + wait_seconds
    with ExitStack() as stack:
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                stack.enter_context(file_lock(path, min(left, _STOP_SECONDS)))
                break
            except TimeoutError:
                if left <= 0.0:
                    raise
                heed(stop)
        yield


@contextmanager
def _advisory_lock(storage: str, wait_seconds: float, stop: Callable[[], bool]) -> Iterator[None]:
    # The lock of a transaction, not of a session: it also holds through a connection pooler.
    connection = make_engine(storage).connect()
    try:
        deadline = time.monotonic() + wait_seconds
        while not connection.execute(_TRY, {"key": _KEY}).scalar():
            heed(stop)
            if time.monotonic() >= deadline:
                raise TimeoutError(storage)
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        # A connection that broke has given its lock back; what was done under it stands or failed by itself.
        with suppress(SQLAlchemyError):
            connection.close()
