"""Rows of any source, one at a time, each with the file and line it came from."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bit_axon.data.json_rows import count_json_lines, read_json, read_json_lines
from bit_axon.data.parquet import count_parquet, read_parquet
from bit_axon.data.sources import (
    EMBEDDED,
    Source,
    SourceDigest,
    files_of,
    is_embedded,
    is_hub,
    rows_digest,
)
from bit_axon.embedded import sources as embedded
from bit_axon.errors import DataError, problem
from bit_axon.files import sha256_file


@dataclass(frozen=True)
class Row:
    """One row as read.

    Attributes:
        values: the object's keys and values, untouched.
        source: the file, hub id or embedded name.
        line: line of a JSON file, else the row's number; from 1.
    """

    values: Mapping[str, Any]
    source: str
    line: int

    @property
    def where(self) -> str:
        """`file:line`, as messages name it."""
        return f"{self.source}:{self.line}"


def read_rows(source: Source) -> Iterator[Row]:
    """The rows of a source, in order; files of a folder by name.

    Raises:
        DataError: the source is missing, a line is broken, a row is no object, or there is no row.
    """
    empty = True
    for name, numbered in _parts(source):
        for line, values in numbered:
            empty = False
            yield Row(_object(values, f"{name}:{line}"), name, line)
    if empty:
        raise DataError(
            problem("at least one row", f"'{source.path}', which has none", "Give a source that has rows.")
        )


def rows_of_list(rows: Iterable[Mapping[str, Any]], name: str = "rows") -> Iterator[Row]:
    """Rows that a program holds in memory."""
    for number, values in enumerate(rows, start=1):
        yield Row(_object(values, f"{name}:{number}"), name, number)


def digest_sources(sources: Iterable[Source]) -> tuple[SourceDigest, ...]:
    """What each source holds now, file by file, without tokenising.

    Raises:
        DataError: a source is missing or unreadable.
    """
    return tuple(digest for source in sources for digest in _digests(source))


def _digests(source: Source) -> Iterator[SourceDigest]:
    if is_embedded(source) or is_hub(source):
        sha256, count = rows_digest(row.values for row in read_rows(source))
        yield SourceDigest(source.path, source.path, sha256, count)
        return
    for path in files_of(source):
        try:
            digest = sha256_file(path)
        except OSError as error:
            reason, remedy = (error.strerror or str(error)).lower(), "Make it readable, or copy it."
            raise DataError(problem("a readable data file", reason, remedy, where=str(path))) from None
        yield SourceDigest(source.path, str(path), digest, _count(path))


def _parts(source: Source) -> Iterator[tuple[str, Iterable[tuple[int, Any]]]]:
    """`(name, numbered rows)` for each file, or for the whole of a source that has no files."""
    if is_embedded(source):
        yield source.path, enumerate(embedded.read(source.path.removeprefix(EMBEDDED)), start=1)
    elif is_hub(source):
        yield source.path, enumerate(_read_hub(source), start=1)
    else:
        for path in files_of(source):
            yield str(path), _read_file(path)


def _read_hub(source: Source) -> Iterator[Mapping[str, Any]]:
    # Loads `datasets`, half a second that no local source should pay.
    from bit_axon.data.hub import read_hub

    return read_hub(source)


def _read_file(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix == ".parquet":
        return read_parquet(path)
    return read_json(path) if path.suffix == ".json" else read_json_lines(path)


def _count(path: Path) -> int:
    if path.suffix == ".parquet":
        return count_parquet(path)
    return sum(1 for _ in read_json(path)) if path.suffix == ".json" else count_json_lines(path)


def _object(values: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise DataError(
            problem(
                "a row that is an object",
                f"a {_kind(values)}",
                'Write {"messages": [...]} or another known format; name the file .json if it is one array.',
                where=where,
            )
        )
    return values


def _kind(value: Any) -> str:
    names = {list: "list", str: "text", bool: "true or false", int: "number", float: "number"}
    return names.get(type(value), "null")
