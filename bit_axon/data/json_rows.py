"""Objects out of JSON lines and JSON arrays, one at a time, each with its line number."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from bit_axon.errors import DataError, problem

_PIECE_CHARACTERS = 1 << 20
# A decoder stops this close to the end of a piece when the value goes on in the next one
# (a cut `\\uXXXX\\uXXXX` escape is the longest case).
_CUT_MARGIN = 16
_SPACE = " \t\r\n"


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """`(line, value)` for each line that is not blank.

    Raises:
        DataError: a line is not JSON, or not UTF-8; names the file and the line.
    """
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.strip():
                yield number, _parsed(raw, path, number)


def read_json(path: Path) -> Iterator[tuple[int, Any]]:
    """Like `read_json_lines`, for a file that holds one array, or else JSON lines."""
    with open(path, "rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return _read_array(path) if start.startswith(b"[") else read_json_lines(path)


def count_json_lines(path: Path) -> int:
    """Lines that are not blank, without parsing them."""
    with open(path, "rb") as file:
        return sum(1 for raw in file if raw.strip())


def _parsed(raw: bytes, path: Path, number: int) -> Any:
    try:
        return json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise _broken(path, number, f"bytes that are not UTF-8 ({error.reason})") from None
    except json.JSONDecodeError as error:
        raise _broken(path, number, f"{error.msg} at column {error.colno}") from None


def _broken(path: Path, number: int, reason: str) -> DataError:
    remedy = "Correct that line; JSON lines are one object per line, an array is [{...}, {...}]."
    return DataError(problem("JSON", reason, remedy, where=f"{path}:{number}"))


def _read_array(path: Path) -> Iterator[tuple[int, Any]]:
    with open(path, encoding="utf-8-sig") as file:
        reader = _ArrayReader(file, path)
        try:
            yield from reader.items()
        except UnicodeDecodeError as error:
            raise _broken(path, reader.line, f"bytes that are not UTF-8 ({error.reason})") from None


class _ArrayReader:
    """Decodes the items of one array while holding only a piece of the file."""

    def __init__(self, file: TextIO, path: Path):
        self._file = file
        self._path = path
        self._buffer = ""
        self._at = 0
        self._ended = False
        self._decoder = json.JSONDecoder()
        self.line = 1

    def items(self) -> Iterator[tuple[int, Any]]:
        self._expect("[")
        if self._peek() == "]":
            self._step(self._at + 1)
        else:
            yield from self._separated_items()
        if extra := self._peek():
            raise _broken(self._path, self.line, f"'{extra}' behind the end of the array")

    def _separated_items(self) -> Iterator[tuple[int, Any]]:
        while True:
            self._peek()
            line = self.line
            yield line, self._value()
            if self._peek() == "]":
                self._step(self._at + 1)
                return
            self._expect(",")

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if not self._may_be_cut(error):
                    line = self.line + self._buffer.count("\n", self._at, error.pos)
                    raise _broken(self._path, line, error.msg) from None
            else:
                if self._ended or not self._is_cut_number(value, end):
                    self._step(end)
                    return value
            self._fill()

    def _is_cut_number(self, value: Any, end: int) -> bool:
        """`12` may be the start of `12.5e+3`; any other value has a mark at its end."""
        return isinstance(value, int | float) and end > len(self._buffer) - _CUT_MARGIN

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        near_end = error.pos >= len(self._buffer) - _CUT_MARGIN
        return not self._ended and (near_end or error.msg.startswith("Unterminated string"))

    def _expect(self, character: str) -> None:
        found = self._peek()
        if found != character:
            got = f"'{found}'" if found else "the end of the file"
            raise _broken(self._path, self.line, f"{got} where '{character}' belongs")
        self._step(self._at + 1)

    def _peek(self) -> str:
        """The next character that is no space, or an empty text at the end of the file."""
        while True:
            at = self._at
            while at < len(self._buffer) and self._buffer[at] in _SPACE:
                at += 1
            self._step(at)
            if at < len(self._buffer):
                return self._buffer[at]
            if self._ended:
                return ""
            self._fill()

    def _step(self, end: int) -> None:
        self.line += self._buffer.count("\n", self._at, end)
        self._at = end

    def _fill(self) -> None:
        piece = self._file.read(_PIECE_CHARACTERS)
        self._ended = not piece
        self._buffer = self._buffer[self._at :] + piece
        self._at = 0
