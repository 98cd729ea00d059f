"""Locks between processes: one mirrors a run directory at a time, one makes the schema of a database."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bit_axon.errors import BitAxonError, RunDirectoryError, problem
from bit_axon.files import storage_error
from bit_axon.tracking.location import redacted, sqlite_path

LOCK_FILE = ".mlflow.lock"
_POLL_SECONDS = 0.05
_SCHEMA_SECONDS = 120.0  # several processes may each wait for the first one's schema


@contextmanager
def file_lock(path: Path, wait_seconds: float) -> Iterator[None]:
    """Holds an advisory lock on `path` (made when absent); it ends with the process at the latest.

    Raises:
        TimeoutError: another process held it all the time.
        StorageError: the file cannot be made.
    """
    deadline = time.monotonic() + wait_seconds
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise TimeoutError(str(path))
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def mirroring(run_dir: Path, wait_seconds: float = 0.0) -> Iterator[None]:
    """Keeps two processes from mirroring one run directory at a time.

    Raises:
        RunDirectoryError: another process does it.
    """
    try:
        with file_lock(run_dir / LOCK_FILE, wait_seconds):
            yield
    except TimeoutError as error:
        raise RunDirectoryError(
            problem(
                f"to mirror {run_dir} to MLflow",
                "another process that is doing it now",
                "Its run is still going; sync it when it has ended.",
            )
        ) from error


@contextmanager
def opening(uri: str) -> Iterator[None]:
    """Held while a store is opened: two processes that make the schema of one SQLite file corrupt it.

    Raises:
        BitAxonError: another process has been at it for two minutes, or the folder cannot be written.
    """
    database = sqlite_path(uri)
    if database is None:
        yield
        return
    lock = database.with_name(database.name + ".lock")
    try:
        with file_lock(lock, _SCHEMA_SECONDS):
            yield
    except TimeoutError as error:
        raise BitAxonError(
            problem(
                f"to open {redacted(uri)}",
                "another process that has been opening it for two minutes",
                f"End it, or remove {lock} when there is none.",
            )
        ) from error
