"""Encoded examples as flat arrays on disk, memory-mapped, under the digest of what they were made from.

A cache entry is a folder: for each side (`tokens`, or `chosen` and `rejected`) the files `SIDE.ids.npy`
(int32), `SIDE.mask.npy` (uint8) and `SIDE.offsets.npy` (int64, one more than examples), and
`manifest.json` with their digests. It is written beside its place and renamed into it.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

from bit_axon.data.examples import Example, PairExample
from bit_axon.files import sha256_file, storage_error, write_json_atomic

_COLUMNS = {"ids": "<i4", "mask": "|u1", "offsets": "<i8"}
_MANIFEST = "manifest.json"


class TokenStore(Sequence[Example]):
    """Examples in flat arrays.

    Attributes:
        ids: `(N,)` int32, all tokens.
        mask: `(N,)` uint8.
        offsets: `(len + 1,)` int64, where each example starts.
    """

    def __init__(self, ids: NDArray[np.int32], mask: NDArray[np.uint8], offsets: NDArray[np.int64]):
        self.ids = ids
        self.mask = mask
        self.offsets = offsets

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`(len,)`; tokens of each example."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        part = slice(int(self.offsets[at]), int(self.offsets[at + 1]))
        return Example(self.ids[part], self.mask[part])


class PairStore(Sequence[PairExample]):
    """Pairs: two stores of the same length."""

    def __init__(self, chosen: TokenStore, rejected: TokenStore):
        self.chosen = chosen
        self.rejected = rejected

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`(len,)`; tokens of the longer side of each pair."""
        return np.maximum(self.chosen.lengths, self.rejected.lengths)

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> PairExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[PairExample]: ...
    def __getitem__(self, index: int | slice) -> PairExample | list[PairExample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return PairExample(self.chosen[index], self.rejected[index])


@dataclass(frozen=True)
class Counts:
    """What encoding a set did.

    Attributes:
        rows: rows read.
        truncated: examples kept, but cut on the right.
        dropped_too_long: rows whose targets all lay behind the cut.
        dropped_masked: rows that never had a target.
        kept: examples of each source, in order.
    """

    rows: int
    truncated: int
    dropped_too_long: int
    dropped_masked: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class CacheEntry:
    """The sides of an encoded set, and its counts."""

    sides: tuple[TokenStore, ...]
    counts: Counts


class StoreWriter:
    """Appends examples of one side to files; holds none of them."""

    def __init__(self, folder: Path, side: str):
        self._folder = folder
        self._side = side
        self._open = ExitStack()
        self._files: dict[str, BinaryIO] = {
            name: self._open.enter_context(open(self._raw(name), "w+b"))  # noqa: SIM115 - the stack closes it
            for name in _COLUMNS
        }
        self._files["offsets"].write(np.zeros(1, np.int64).tobytes())
        self._end = 0

    def append(self, examples: Sequence[Example]) -> None:
        """Adds examples in order."""
        if not examples:
            return
        ends = self._end + np.cumsum([len(example.token_ids) for example in examples], dtype=np.int64)
        self._end = int(ends[-1])
        self._files["ids"].write(np.concatenate([e.token_ids for e in examples]).astype("<i4").tobytes())
        self._files["mask"].write(np.concatenate([e.loss_mask for e in examples]).astype("|u1").tobytes())
        self._files["offsets"].write(ends.astype("<i8").tobytes())

    def close(self) -> None:
        """Gives the columns their headers."""
        for name, file in self._files.items():
            size = np.dtype(_COLUMNS[name]).itemsize
            header = {"descr": _COLUMNS[name], "fortran_order": False, "shape": (file.tell() // size,)}
            file.seek(0)
            with open(_column(self._folder, self._side, name), "wb") as whole:
                np.lib.format.write_array_header_1_0(whole, header)
                shutil.copyfileobj(file, whole)
        self.abandon()

    def abandon(self) -> None:
        """Closes and removes the raw columns."""
        self._open.close()
        for name in _COLUMNS:
            self._raw(name).unlink(missing_ok=True)

    def _raw(self, name: str) -> Path:
        return self._folder / f"{self._side}.{name}.raw"


def save_entry(folder: Path, counts: Counts, sides: Sequence[str]) -> None:
    """Completes a folder whose writers are closed with its manifest."""
    files = [_column(folder, side, name).name for side in sides for name in _COLUMNS]
    digests = {name: sha256_file(folder / name) for name in files}
    write_json_atomic(folder / _MANIFEST, {"counts": asdict(counts), "sides": list(sides), "sha256": digests})


def load_entry(folder: Path, *, in_memory: bool = False) -> CacheEntry | None:
    """An entry that is whole, or None: absent, cut short, or with other bytes than were written."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if any(sha256_file(folder / name) != digest for name, digest in manifest["sha256"].items()):
            return None
        sides = tuple(
            TokenStore(*(_array(_column(folder, side, name), in_memory) for name in _COLUMNS))
            for side in manifest["sides"]
        )
        counts = manifest["counts"]
        return CacheEntry(sides, Counts(**{**counts, "kept": tuple(counts["kept"])}))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class NewEntry:
    """A folder to write an entry into; `publish` puts it in its place, leaving without drops it.

    Raises:
        StorageError: on leaving, if the disk refused to write.
    """

    def __init__(self, place: Path | None):
        self._place = place

    def __enter__(self) -> Path:
        try:
            if self._place is None:
                self.folder = Path(tempfile.mkdtemp(prefix="bit_axon_tokens_"))
            else:
                self._place.parent.mkdir(parents=True, exist_ok=True)
                self.folder = Path(
                    tempfile.mkdtemp(prefix=f".{self._place.name[:16]}.", dir=self._place.parent)
                )
        except OSError as error:
            raise storage_error(self._place or Path(tempfile.gettempdir()), error) from error
        return self.folder

    def publish(self) -> CacheEntry:
        """Moves the entry to its place, unless another process was first, and opens it."""
        if self._place is None:
            entry = load_entry(self.folder, in_memory=True)
        else:
            self._move(self._place)
            entry = load_entry(self._place)
        if entry is None:
            raise OSError("the token cache cannot be read back")
        return entry

    def _move(self, place: Path) -> None:
        if load_entry(place) is not None:
            return
        if place.exists():  # corrupt: out of the way first, so that no reader sees a mixture
            corrupt = place.with_name(f"{self.folder.name}.corrupt")
            os.replace(place, corrupt)
            shutil.rmtree(corrupt, ignore_errors=True)
        try:
            os.replace(self.folder, place)
        except OSError:
            if load_entry(place) is None:  # else another process put the same entry there meanwhile
                raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise storage_error(self._place or self.folder, error) from error


def _array(path: Path, in_memory: bool) -> Any:
    return np.load(path) if in_memory else np.load(path, mmap_mode="r")


def _column(folder: Path, side: str, name: str) -> Path:
    return folder / f"{side}.{name}.npy"
