"""Two runs on one machine heat each other: whoever comes second is told."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def lock_file() -> Path:
    """One for each user of this machine, wherever the runs are written."""
    return Path(tempfile.gettempdir()) / f"bit_axon-thermal-{os.getuid()}.lock"


@contextmanager
def presence(path: Path | None = None) -> Iterator[int | None]:
    """Shows this run to others while it lasts; yields the process id of one that is there already.

    The lock ends with the process, however it ends. Where no lock can be made there is nothing to tell.
    """
    place = path or lock_file()
    try:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        yield None
        return
    try:
        yield _other(descriptor)
    finally:
        os.close(descriptor)


def _other(descriptor: int) -> int | None:
    """Takes the lock and leaves the process id in the file, or reads that of the holder."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        written = os.read(descriptor, 32).strip()
        return int(written) if written.isdigit() else 0
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    except OSError:
        return None  # a full disk: the lock holds all the same
    return None
