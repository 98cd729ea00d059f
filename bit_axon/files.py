"""Files that matter: atomic writes, digests, and where the project keeps its outputs."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from bit_axon.errors import StorageError, problem

_PACKAGE = Path(__file__).resolve().parent
_READ_BYTES = 1 << 20


def project_root() -> Path:
    """The folder `outputs/` belongs to: the clone's root, or the current folder for an installed wheel."""
    clone = _PACKAGE.parent
    return clone if (clone / "pyproject.toml").is_file() else Path.cwd()


def outputs_dir() -> Path:
    """Where runs, databases and caches go; `BIT_AXON_OUTPUTS` moves it."""
    override = os.environ.get("BIT_AXON_OUTPUTS")
    return Path(override).resolve() if override else project_root() / "outputs"


def data_dir(name: str) -> Path:
    """A folder that lies beside the package in a clone and inside it in a wheel: `conf`, `sweeps`."""
    packaged = _PACKAGE / "_data" / name
    return packaged if packaged.is_dir() else _PACKAGE.parent / name


def write_atomic(path: Path, data: bytes | str) -> None:
    """Writes `data` so that a reader sees the old file or the new one, never a part.

    Raises:
        StorageError: the disk is full or not writable; the old file is untouched.
    """
    raw = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """The message for a failed write."""
    reason = error.strerror or str(error)
    return StorageError(
        problem(
            f"to write {path}",
            reason.lower(),
            "Free some space or make the folder writable; what was saved before is kept, "
            "and the run can be resumed from it.",
        )
    )


def write_json_atomic(path: Path, value: Any) -> None:
    """Like `write_atomic`, for JSON with sorted keys and a final newline."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def digest_of(value: Any) -> str:
    """Hex digest of a JSON-able value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
