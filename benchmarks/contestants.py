"""Who is measured: the peers there are, whether they are installed, and a worker process as an object."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from benchmarks.blocks import Block
from benchmarks.workers.protocol import Spec
from bit_axon.errors import BitAxonError, ConfigError, problem
from bit_axon.files import project_root

NOT_INSTALLED = "not installed: pip install 'bit-axon[bench]'"
OURS = "ours"


@dataclass(frozen=True)
class Peer:
    """A contestant's program."""

    title: str
    module: str
    packages: tuple[str, ...]


PEERS: dict[str, Peer] = {
    OURS: Peer("bit_axon", "benchmarks.workers.on_mlx.ours", ()),
    "mlx-lm": Peer("mlx-lm", "benchmarks.workers.on_mlx.mlx_lm_sft", ("mlx_lm",)),
    "mlx-lm-bundled": Peer("mlx-lm, bundled BLAS", "benchmarks.workers.mlx_lm_bundled", ("mlx_lm",)),
    "mlx-lm-lora": Peer("mlx-lm-lora", "benchmarks.workers.on_mlx.mlx_lm_lora_orpo", ("mlx_lm_lora",)),
    "peft": Peer("PyTorch + PEFT", "benchmarks.workers.torch_peft", ("torch", "peft", "transformers")),
}


@dataclass(frozen=True)
class Contestant:
    """One program with one task; `label` names it within its case."""

    label: str
    peer: str
    python: str
    spec: Spec


class WorkerError(BitAxonError):
    """A worker ended before it answered."""


def is_installed(peer: str, python: str) -> bool:
    """Whether the peer's packages import in an interpreter."""
    packages = PEERS[peer].packages
    if python == sys.executable:
        return all(find_spec(package) for package in packages)
    code = f"import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, {list(packages)!r})))"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def check_python(path: str) -> str:
    """An interpreter's path, if there is one.

    Raises:
        ConfigError: nothing that can be run is there.
    """
    try:
        done = subprocess.run([path, "-c", ""], capture_output=True)
    except OSError as error:
        reason = f"'{path}': {(error.strerror or str(error)).lower()}"
    else:
        if done.returncode == 0:
            return path
        reason = f"'{path}', which ends with code {done.returncode}"
    raise ConfigError(problem("a Python interpreter", reason, "Correct the path.", where="--peft-python"))


class Worker:
    """A worker process. Waiting for its next command it costs nothing but memory."""

    def __init__(self, contestant: Contestant, log: Path):
        self.contestant = contestant
        self._log_path = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [contestant.python, "-m", PEERS[contestant.peer].module],
            cwd=project_root(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
        )
        self._send(asdict(contestant.spec))

    def ready(self) -> Mapping[str, Any]:
        """Waits until everything is built; what the worker says of itself.

        Raises:
            WorkerError: it ended instead.
        """
        return self._receive()

    def block(self, do: str, steps: int, max_seconds: float) -> Block:
        """Lets it train for a while.

        Raises:
            WorkerError: it ended instead.
        """
        self._send({"do": do, "steps": steps, "max_seconds": max_seconds})
        return Block.from_message(self._receive())

    def close(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                _close(stream)
        self._log.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        message: dict[str, Any] = json.loads(line)
        return message

    def _failure(self) -> WorkerError:
        self._process.wait()
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"ended with code {self._process.returncode}"
        place = "/".join(self._log_path.parts[-3:])  # within the report's folder
        return WorkerError(f"{reason} (see {place})")


def _close(stream: IO[str]) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        return  # what it had not read does not matter any more
