"""Where rows come from: what a user may write under `data.train`, and the files behind it."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bit_axon.errors import ConfigError, DataError, problem

FILE_SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet")
EMBEDDED = "embedded:"

_SPLITS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev", "eval"),
    "test": ("test",),
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """One place of rows.

    Attributes:
        path: a file, a folder, a hub id, or `embedded:NAME`.
        weight: 2 takes every row twice, 0.5 a half drawn by the seed.
        split: which split of a folder or hub set; None takes every file of a folder, `train` of a hub set.
        config: the configuration of a hub set.
        revision: branch, tag or commit of a hub set.
    """

    path: str
    weight: float = 1.0
    split: str | None = None
    config: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class SourceDigest:
    """What a source held: `sha256` of the file's bytes, or of its rows where it is no file."""

    source: str
    path: str
    sha256: str
    rows: int


def changed_source(recorded: Iterable[Mapping[str, Any]], now: Iterable[SourceDigest]) -> str | None:
    """The first place whose content is not what was recorded, or that came or went; None if all is equal.

    Args:
        recorded: the fields of `SourceDigest`, as repro.json has them.
        now: what is there.
    """
    old = {file["path"]: file["sha256"] for file in recorded}
    new = {file.path: file.sha256 for file in now}
    return next((path for path in sorted(old.keys() | new.keys()) if old.get(path) != new.get(path)), None)


def parse_sources(value: Any, *, split: str | None = None) -> tuple[Source, ...]:
    """Sources from a config value: a path, a mapping with `path` and `weight`, or a list of these.

    Args:
        value: as composed.
        split: the split of folders and hub sets that name none: `train` or `valid`.

    Raises:
        ConfigError: the value is none of these, or a weight is not a positive number.
    """
    if isinstance(value, str):
        return (_from_mapping({"path": value}, split),)
    if isinstance(value, Path):
        return (_from_mapping({"path": str(value)}, split),)
    if isinstance(value, Mapping):
        return (_from_mapping(value, split),)
    if isinstance(value, list | tuple) and value:
        return tuple(source for item in value for source in parse_sources(item, split=split))
    raise ConfigError(
        problem(
            "a data source: a path, a hub id, or a list of {path, weight}",
            repr(value),
            "Set data.train (and data.valid).",
        )
    )


def _from_mapping(value: Mapping[Any, Any], split: str | None) -> Source:
    known = ("path", "weight", "split", "config", "revision")
    unknown = [str(key) for key in value if key not in known]
    if unknown:
        close = get_close_matches(unknown[0], known, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"There is: {', '.join(known)}."
        raise ConfigError(problem("a data source with known keys", f"'{unknown[0]}'", hint))
    for key in ("path", "split", "config", "revision"):
        text = value.get(key)
        if (text is None and key == "path") or not isinstance(text, str | None) or text == "":
            raise ConfigError(problem(f"{key} of a data source as text", repr(text), f"Write {key}: NAME."))
    return Source(
        path=value["path"],
        weight=_weight(value),
        split=value.get("split") or split,
        config=value.get("config"),
        revision=value.get("revision"),
    )


def _weight(value: Mapping[Any, Any]) -> float:
    weight = value.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise ConfigError(
            problem("weight of a data source above 0", repr(weight), "Write weight: 2 for every row twice.")
        )
    return float(weight)


def is_embedded(source: Source) -> bool:
    """Whether the source comes with the package."""
    return source.path.startswith(EMBEDDED)


def is_hub(source: Source) -> bool:
    """Whether the source is `owner/name` and nothing on this machine."""
    if is_embedded(source) or not _HUB_ID.fullmatch(source.path):
        return False
    path = Path(source.path)
    return not path.exists() and not path.parent.exists() and path.suffix not in FILE_SUFFIXES


def files_of(source: Source) -> tuple[Path, ...]:
    """The files of a local source, sorted.

    Raises:
        DataError: nothing is there, or nothing that can be read.
    """
    path = Path(source.path).expanduser()
    if path.is_dir():
        return _files_of_folder(path, source.split)
    if not path.is_file():
        raise DataError(problem(f"data file '{source.path}'", "no such file", _neighbours(path)))
    if path.suffix not in FILE_SUFFIXES:
        raise DataError(
            problem(
                f"a data file ({', '.join(FILE_SUFFIXES)})",
                f"'{source.path}'",
                "Convert it to JSON lines: one object per line.",
            )
        )
    return (path,)


def _neighbours(path: Path) -> str:
    """What a missing file may have been meant to be."""
    folder = path.parent
    if not folder.is_dir():
        return f"The folder '{folder}' does not exist either. Correct the path; a hub id is OWNER/NAME."
    names = sorted(p.name for p in folder.iterdir() if p.suffix in FILE_SUFFIXES or p.is_dir())
    close = get_close_matches(path.name, names, n=3, cutoff=0.6)
    if close:
        return "Did you mean " + " or ".join(f"'{folder / name}'" for name in close) + "?"
    listed = ", ".join(n for n in names if Path(n).suffix in FILE_SUFFIXES) or "no data file"
    return f"Correct the path; in '{folder}' there is: {listed[:300]}."


def _files_of_folder(folder: Path, split: str | None) -> tuple[Path, ...]:
    """Files of the split; for `train`, where none is named so, all that belong to no other split."""
    found = _data_files(folder) or _data_files(folder / "data")
    if not found:
        raise DataError(
            problem(f"data files ({', '.join(FILE_SUFFIXES)}) in '{folder}'", "none", "Correct the path.")
        )
    if split is None:
        return found
    named = tuple(file for file in found if _split_of(file) == _canonical(split))
    if not named and _canonical(split) == "train":
        named = tuple(file for file in found if _split_of(file) is None)
    if not named:
        listed = ", ".join(file.name for file in found)
        raise DataError(
            problem(
                f"files of split '{split}' in '{folder}'",
                listed[:300],
                f"Name a file {split}.jsonl, or give the file itself.",
            )
        )
    return named


def _data_files(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    visible = (p for p in folder.iterdir() if p.is_file() and not p.name.startswith((".", "_")))
    return tuple(sorted(p for p in visible if p.suffix in FILE_SUFFIXES))


def _canonical(split: str) -> str:
    """`validation` and `dev` mean `valid`."""
    return next((name for name, others in _SPLITS.items() if split in others), split)


def _split_of(file: Path) -> str | None:
    """The split in a name such as `train.jsonl` or `validation-00000-of-00002.parquet`."""
    first = re.split(r"[-_.]", file.name, maxsplit=1)[0].lower()
    canonical = _canonical(first)
    return canonical if canonical in _SPLITS else None


def rows_digest(rows: Iterable[Mapping[str, Any]]) -> tuple[str, int]:
    """Hex digest and count of rows that are no file: the JSON text of each, in order."""
    digest = hashlib.sha256()
    count = 0
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode())
        digest.update(b"\n")
        count += 1
    return digest.hexdigest(), count
