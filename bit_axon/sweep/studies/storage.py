"""Where the trials of a study are kept, and what to do while that place cannot be reached."""

import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import (
    ArgumentError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)
from sqlalchemy.pool import NullPool

from bit_axon.errors import ConfigError, StorageError, problem
from bit_axon.files import storage_error
from bit_axon.tracking.location import sqlite_path
from bit_axon.tracking.redaction import redacted, redacted_storage, without_address

STORAGE_VARIABLE: Final = "BIT_AXON_STUDY_STORAGE"  # the URL may hold a password: it is in no file
START_SECONDS: Final = 45.0  # how long the first connection is tried
_SQLITE: Final = "sqlite:///"
_LOCKED_SECONDS: Final = 5  # how long a statement waits for another process that writes: Ctrl-C waits too
_CONNECT_SECONDS: Final = 5
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 0.5  # between two looks whether to stop waiting
_REASON_CHARACTERS: Final = 200
_HOPELESS: Final = (
    "authentication failed",
    "does not exist",
    "no password supplied",
    "is full",
    "readonly",
    "no such table",
)

T = TypeVar("T")


def storage_url(sweep_dir: Path, environment: Mapping[str, str]) -> str:
    """The address of a sweep's study: what the environment says, or a SQLite file in the sweep's folder."""
    return absolute_storage(environment.get(STORAGE_VARIABLE) or f"{_SQLITE}{sweep_dir / 'study.db'}")


def absolute_storage(url: str) -> str:
    """`url` with an absolute SQLite path, or with the driver that is installed for PostgreSQL.

    Raises:
        ConfigError: it is neither.
    """
    scheme = url.split(":", 1)[0]
    database = sqlite_path(url)
    if database is not None and database.name and str(database) != ":memory:":
        return _SQLITE + str(database.resolve())
    if scheme in ("postgresql", "postgres"):
        return "postgresql+psycopg" + url.removeprefix(scheme)
    if scheme in ("postgresql+psycopg", "postgresql+psycopg2"):
        return url
    raise ConfigError(
        problem(
            "hydra.sweeper.storage to be a database that several processes can open",
            repr(redacted_storage(url)),
            "Use sqlite:///FILE.db, postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, or leave it null "
            "for a file in the sweep's folder.",
        ),
        keys=("hydra.sweeper.storage",),
    )


def connection_options(url: str) -> dict[str, Any]:
    """Arguments of the driver: waits for other writers, and gives up on a server that does not answer."""
    if url.startswith(_SQLITE):
        return {"timeout": _LOCKED_SECONDS}
    return {"connect_timeout": _CONNECT_SECONDS, "tcp_user_timeout": 30_000, "keepalives_idle": 30}


def connect(url: str, *, is_ready: bool = False) -> RDBStorage:
    """Opens the database and makes its tables where there are none; call it under `study_lock` then.

    Args:
        url: an absolute one.
        is_ready: its tables are there and of this version; saves looking.

    Raises:
        ConfigError: the driver is not installed, or the address cannot be read.
        StorageError: the database answers, but cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options = {"connect_args": connection_options(url), "pool_pre_ping": not url.startswith(_SQLITE)}
    try:
        with _usable(url):
            storage = RDBStorage(
                url, options, skip_compatibility_check=is_ready, skip_table_creation=is_ready
            )
    except (SQLAlchemyError, StorageInternalError) as error:
        if is_outage(error):
            raise
        raise StorageError(_cannot_open(url, error)) from error
    weakref.finalize(storage, storage.engine.dispose)  # says goodbye to the server, also at exit
    return storage


def make_engine(url: str) -> sqlalchemy.Engine:
    """A way to the database of its own, for one connection.

    Raises:
        ConfigError: the driver is not installed, or the address cannot be read.
    """
    with _usable(url):
        return sqlalchemy.create_engine(url, poolclass=NullPool, connect_args=connection_options(url))


@contextmanager
def _usable(url: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        # Not `from error`: what SQLAlchemy could not read may be a part of the password.
        raise ConfigError(_cannot_open(url, error), keys=("hydra.sweeper.storage",)) from None


def make_folder(url: str) -> None:
    """The folder of a SQLite file.

    Raises:
        StorageError: it cannot be made.
    """
    database = sqlite_path(url)
    if database is None:
        return
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(database, error) from error


def is_outage(error: BaseException) -> bool:
    """Whether the database could not be reached or was busy, so that the same call may work later."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, OperationalError | InterfaceError | PendingRollbackError)


def reason_of(error: BaseException, url: str) -> str:
    """What the database said, in one line, without what `url` says of user, password and host."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    text = str(cause).strip()
    first = text.splitlines()[0] if text else type(cause).__name__
    return without_address(first.split(") ", 1)[-1], url)[:_REASON_CHARACTERS]


def _cannot_open(url: str, error: BaseException) -> str:
    if isinstance(error, ImportError):
        remedy = "Install the driver: pip install 'bit-axon[postgres]'."
        if url.startswith("postgresql+psycopg2"):
            remedy = "Write postgresql+psycopg://..., or install psycopg2."
    else:
        remedy = "Check hydra.sweeper.storage; a password has %40 for @, %2F for /, %3A for : and %25 for %."
    return problem(f"to open the study storage {redacted(url)}", reason_of(error, url), remedy)


def to_stderr(text: str) -> None:
    """Shows a line at once."""
    print(text, file=sys.stderr, flush=True)


def never() -> bool:
    """Nobody asks for a stop."""
    return False


def heed(stop: Callable[[], bool]) -> None:
    """Ends what waits.

    Raises:
        KeyboardInterrupt: a stop was asked for.
    """
    if stop():
        raise KeyboardInterrupt


@dataclass(frozen=True)
class Patience:
    """Calls again what failed because the storage could not be reached, up to a limit.

    Attributes:
        url: the storage, for messages.
        seconds: how long it goes on trying.
        monotonic: the clock.
        sleep: waits.
        say: is told once that there is something to wait for, and once that it is over.
        stop: asked while it waits; true ends that.
    """

    url: str
    seconds: float = 300.0
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    say: Callable[[str], None] = to_stderr
    stop: Callable[[], bool] = never

    def up_to(self, seconds: float) -> "Patience":
        """The same with another limit."""
        return replace(self, seconds=seconds)

    def __call__(self, action: Callable[[], T]) -> T:
        """The value of `action`.

        Raises:
            StorageError: the storage could not be reached all the time, or waiting cannot help.
            KeyboardInterrupt: `stop` said so.
        """
        began = self.monotonic()
        pause, told = _FIRST_PAUSE_SECONDS, False
        while True:
            try:
                value = action()
            except (SQLAlchemyError, StorageInternalError) as error:
                left = began + self.seconds - self.monotonic()
                if not is_outage(error) or _is_hopeless(error) or left <= 0:
                    raise StorageError(self._gave_up(error)) from error
                if not told and pause > 1.0:
                    told = True
                    self.say(f"{self.trouble(error)}; trying {left:.0f} s more")
                self._wait(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                if told:
                    self.say("study storage: it answers again")
                return value

    def trouble(self, error: BaseException) -> str:
        """Which storage, and what it said; `error` is its own, or the StorageError that came of it."""
        cause = error.__cause__ if isinstance(error, StorageError) and error.__cause__ else error
        return f"study storage {redacted(self.url)}: {reason_of(cause, self.url)}"

    def _wait(self, seconds: float) -> None:
        """In small pieces: a signal does not shorten a sleep."""
        until = self.monotonic() + seconds
        heed(self.stop)
        while (left := until - self.monotonic()) > 0:
            self.sleep(min(left, _STOP_SECONDS))
            heed(self.stop)

    def _gave_up(self, error: BaseException) -> str:
        return problem(
            f"the study storage {redacted(self.url)} to answer",
            reason_of(error, self.url),
            "Nothing that was told is lost. Start the same command again when it can be reached and written.",
        )


def _is_hopeless(error: BaseException) -> bool:
    text = str(error.__cause__ or error)
    return any(hopeless in text for hopeless in _HOPELESS)
