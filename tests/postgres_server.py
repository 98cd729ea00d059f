"""A PostgreSQL server of the tests' own: in a temporary folder, on a free port."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from waiting import LONGEST_SECONDS, wait_for

USER = "postgres"  # as which the server runs when the tests run as root: it refuses to be root
PASSWORD = "hush-hush"


def program(name: str) -> str | None:
    """One of PostgreSQL's programs; Debian keeps them out of the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name) or next((str(at / name) for at in folders if (at / name).is_file()), None)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """The server; it can be stopped and started again."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self._as = USER if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        if self._as:
            shutil.chown(folder, USER)
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        options = ["-U", USER, "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync"]
        self._run("initdb", "-D", str(folder / "data"), *options)
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        options = ["-p", str(self.port), "-k", str(self.folder), "-c", "listen_addresses=127.0.0.1", "-F"]
        command = [str(program("postgres")), "-D", str(self.folder / "data"), *options]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._as, cwd="/")
        ready = [str(program("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        wait_for(
            lambda: subprocess.run(ready, check=False).returncode == 0,
            f"PostgreSQL; its log is {self.folder / 'log'}",
            self._process,
        )

    def stop(self) -> None:
        """Cuts every connection."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(LONGEST_SECONDS)
            self._process = None

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._databases += 1
        name = f"sweeps_{self._databases}"
        self.run_sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def run_sql(self, statement: str) -> int:
        """As administrator, in the database `postgres`; the number of rows."""
        import psycopg

        with psycopg.connect(self.url("postgres").replace("+psycopg", ""), autocommit=True) as connection:
            return connection.execute(statement.encode()).rowcount

    def _run(self, name: str, *arguments: str) -> None:
        command = [str(program(name)), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, user=self._as, cwd="/", check=False)
        assert done.returncode == 0, done.stderr


def missing() -> str | None:
    """Why there can be no server here."""
    absent = [name for name in ("initdb", "postgres", "pg_isready") if program(name) is None]
    if absent:
        return f"PostgreSQL is not installed: no {', '.join(absent)} (Debian: apt-get install postgresql)"
    if os.geteuid() == 0 and USER not in {entry.pw_name for entry in pwd.getpwall()}:
        return f"PostgreSQL does not run as root, and there is no user {USER}"
    return None


def running_server() -> Iterator[Server]:
    """For a fixture; skips with a reason where there is no PostgreSQL."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'psycopg[binary]'")
    reason = missing()
    if reason:
        pytest.skip(reason)
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="bit-axon-pg-", dir=memory if memory.is_dir() else None) as name:
        server = Server(Path(name))
        yield server
        server.stop()
