"""Where the MLflow store is: URIs, made absolute, and safe to print."""

from pathlib import Path

from bit_axon.errors import ConfigError, problem
from bit_axon.files import outputs_dir
from bit_axon.tracking.redaction import redacted as redacted
from bit_axon.tracking.redaction import without_address

_SQLITE = "sqlite:///"
_REASON_CHARACTERS = 200
_SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")


def default_uri() -> str:
    """The SQLite file in the project's outputs folder."""
    return _SQLITE + str((outputs_dir() / "mlflow.db").resolve())


def absolute_uri(uri: str | None) -> str:
    """`uri`, or the default one; a relative SQLite path is taken from the current folder.

    Raises:
        ConfigError: the scheme is none that can hold a store.
    """
    if uri is None:
        return default_uri()
    scheme = uri.split(":", 1)[0].split("+", 1)[0]
    if ":" not in uri or scheme not in _SCHEMES:
        raise ConfigError(
            problem(
                "tracking.uri to be the address of an MLflow store",
                repr(redacted(uri)),
                "Use sqlite:///FILE.db, http://HOST:PORT, or leave it null for a file in the outputs folder.",
            ),
            keys=("tracking.uri",),
        )
    database = sqlite_path(uri)
    return uri if database is None else _SQLITE + str(database.resolve())


def sqlite_path(uri: str) -> Path | None:
    """The database file of a SQLite URI; None for a server."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def artifact_root(uri: str) -> str | None:
    """Where artifacts of a new experiment go, as a file URI; None leaves it to a tracking server."""
    if uri.startswith(("http:", "https:", "databricks")):
        return None
    database = sqlite_path(uri)
    folder = outputs_dir() if database is None else database.parent
    return (folder / "mlartifacts").resolve().as_uri()


def plain_reason(error: BaseException, uri: str) -> str:
    """Why a call to the store failed, in one line a person understands."""
    text = str(error)
    lowered = text.lower()
    place = redacted(uri)
    if "database is locked" in lowered:
        return f"{place} is locked by another program"
    if "max retries exceeded" in lowered or "timed out" in lowered or "connection" in lowered:
        return f"no MLflow server answers at {place}"
    first = without_address(text, uri).strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"{place}: {first[:_REASON_CHARACTERS]}"
