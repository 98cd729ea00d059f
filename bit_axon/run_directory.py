"""A run's folder: who may write it, what is in it, and how it is written.

config.yaml  repro.json  metrics.jsonl  samples.jsonl  result.json
checkpoints/step_XXXXXXXX/  adapters.safetensors  adapter_config.json  .hydra/
"""

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from bit_axon.errors import RunDirectoryError, problem
from bit_axon.files import storage_error, write_atomic, write_json_atomic

CONFIG = "config.yaml"
REPRO = "repro.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
ADAPTERS = "adapters.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
_LOCK = ".lock"
_REPRO_KEYS = ("choices", "overrides", "data", "model", "tokenizer", "config_digest")


class RunDirectory:
    """Reads and writes one run directory.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: Path):
        self.path = path

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / CHECKPOINTS

    def refuse_if_used(self) -> None:
        """A new run needs an empty folder.

        Raises:
            RunDirectoryError: the folder holds something.
        """
        if self.path.is_dir() and any(self.path.iterdir()):
            raise RunDirectoryError(
                problem(
                    "an empty run directory",
                    f"{self.path}, which holds files",
                    f"Continue that run with resume={self.path}, or choose another folder.",
                )
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process; the lock ends with the process, however it ends.

        Raises:
            RunDirectoryError: another process is running this run.
            StorageError: the folder cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(self.path / _LOCK, "w")  # noqa: SIM115 - closed below, it carries the lock
        except OSError as error:
            raise storage_error(self.path, error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunDirectoryError(
                    problem(
                        "a run directory no other process is writing",
                        f"{self.path}, which is in use",
                        "Wait for that run, or stop it.",
                    )
                ) from None
            yield

    def write_config(self, config: Mapping[str, Any]) -> None:
        """The resolved config, every key."""
        write_atomic(self.path / CONFIG, yaml.safe_dump(dict(config), sort_keys=True, allow_unicode=True))

    def read_config(self) -> dict[str, Any]:
        """The resolved config the run was started with."""
        return self._read(CONFIG, yaml.safe_load, needed=("method", "model", "data", "training"))

    def write_repro(self, facts: Mapping[str, Any]) -> None:
        """What is needed to repeat the run."""
        write_json_atomic(self.path / REPRO, dict(facts))

    def read_repro(self) -> dict[str, Any]:
        """What is needed to repeat the run."""
        return self._read(REPRO, json.loads, needed=_REPRO_KEYS)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """The outcome; written last."""
        write_json_atomic(self.path / RESULT, dict(result))

    def read_result(self) -> dict[str, Any] | None:
        """The outcome, or None when the run was cut before it had one."""
        if not (self.path / RESULT).is_file():
            return None
        return self._read(RESULT, json.loads, needed=("state", "step"))

    def write_samples(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """Answers before and after, one JSON object per line."""
        write_atomic(self.path / SAMPLES, "".join(json.dumps(s, ensure_ascii=False) + "\n" for s in samples))

    def read_samples(self) -> list[dict[str, Any]]:
        """What `write_samples` wrote."""
        file = self.path / SAMPLES
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    def _read(self, name: str, parse: Callable[[str], Any], *, needed: Sequence[str]) -> dict[str, Any]:
        file = self.path / name
        try:
            values = parse(file.read_text(encoding="utf-8"))
        except OSError:
            raise self._no_run(name) from None
        except (ValueError, yaml.YAMLError) as error:
            raise _unreadable(file, " ".join(str(error).split())) from None
        if not isinstance(values, dict):
            raise _unreadable(file, "no object")
        if missing := [key for key in needed if key not in values]:
            raise _unreadable(file, f"one without '{missing[0]}'")
        return values

    def _no_run(self, name: str) -> RunDirectoryError:
        """What the folder is instead of a run's, and the nearest name."""
        if self.path.is_dir():
            got, remedy = f"{self.path} without {name}", "Give the folder of a run."
        elif self.path.exists():
            got, remedy = f"{self.path}, a file", "Give the folder of a run."
        else:
            above = self.path.parent
            beside = [path.name for path in above.iterdir() if path.is_dir()] if above.is_dir() else []
            close = get_close_matches(self.path.name, beside, n=1)
            remedy = f"Did you mean {above / close[0]}?" if close else "Give the folder of a run."
            got = f"{self.path}, which does not exist"
        return RunDirectoryError(problem("a run directory", got, remedy))


def _unreadable(file: Path, got: str) -> RunDirectoryError:
    remedy = "The run cannot be used as it is: put the file back."
    return RunDirectoryError(problem("a file as a run wrote it", got, remedy, where=str(file)))


class MetricsLog:
    """Appends to metrics.jsonl: what happened, when, at which step; nothing else on the training thread.

    Raises:
        StorageError: the file cannot be opened.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            # Unbuffered: what a full disk refused is not tried again when the file is closed.
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run
            self._torn = self._file.tell() > 0 and not path.read_bytes().endswith(b"\n")
        except OSError as error:
            raise storage_error(path, error) from error

    def append(self, kind: str, step: int, metrics: Mapping[str, float], text: str | None = None) -> None:
        """One line; NaN and infinities are written as strings, which JSON has no numbers for.

        Raises:
            StorageError: the line could not be written, or only a part of it.
        """
        values = {name: value if value - value == 0 else str(value) for name, value in metrics.items()}
        line: dict[str, Any] = {
            "time": time.time_ns() // 1_000_000,
            "step": step,
            "kind": kind,
            "metrics": values,
        }
        if text is not None:
            line["text"] = text
        self._write(json.dumps(line).encode() + b"\n")

    def _write(self, raw: bytes) -> None:
        """A line torn by a kill or a full disk stays a line of its own: the next one starts behind it."""
        rest = b"\n" + raw if self._torn else raw
        try:
            while rest:
                written = self._file.write(rest)
                self._torn = True
                rest = rest[written:]
        except OSError as error:
            raise storage_error(self._path, error) from error
        self._torn = False

    def close(self) -> None:
        """Ends the log."""
        self._file.close()
