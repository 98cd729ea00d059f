"""Command-line values that are lists of known names, numbers, or output folders."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from bit_axon.errors import ConfigError, nearest, problem
from bit_axon.files import outputs_dir, project_root, write_atomic, write_json_atomic

RESULTS = project_root() / "benchmarks" / "results"


def known_names(text: str, known: Iterable[str], option: str) -> tuple[str, ...]:
    """The names of a comma-separated list.

    Raises:
        ConfigError: one of them is unknown, or there is none.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    allowed = tuple(known)
    for name in names or ("",):
        if name not in allowed:
            wanted = f"names out of {', '.join(allowed)}"
            raise ConfigError(problem(wanted, f"'{name}'", nearest(name, allowed), where=option))
    return names


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """The positive whole numbers of a comma-separated list.

    Raises:
        ConfigError: a part is something else.
    """
    parts = [part.strip().replace("_", "") for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        remedy = f"Write it like {option} 1000,10000."
        raise ConfigError(problem("positive whole numbers", f"'{text}'", remedy, where=option))
    return tuple(int(part) for part in parts)


def at_least_one(value: int, option: str) -> int:
    """The value.

    Raises:
        ConfigError: it is below one.
    """
    if value < 1:
        raise ConfigError(problem("a positive whole number", str(value), "Raise it.", where=option))
    return value


def new_folder(given: str | None) -> Path:
    """Where a report goes: the folder asked for, or a new one named by the time."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder = Path(given) if given else outputs_dir() / "benchmarks" / stamp
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(folder: Path, stem: str, text: str, values: Mapping[str, Any]) -> None:
    """Shows a report and writes it as Markdown, and its numbers as JSON."""
    say(text)
    write_atomic(folder / f"{stem}.md", text)
    write_json_atomic(folder / f"{stem}.json", values)
    say(f"Written to {folder / stem}.md")


def record(folder: Path, stem: str, name: str) -> list[Path]:
    """Copies a report, its numbers and its figure, if it has one, into the results kept with the code."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept: list[Path] = []
    for source in (folder / f"{stem}.{suffix}" for suffix in ("md", "json", "png")):
        if source.is_file():
            target = RESULTS / f"{name}{source.suffix}"
            shutil.copyfile(source, target)
            kept.append(target)
    return kept


def say(lines: str | Sequence[str]) -> None:
    """Prints at once, so that a long measurement shows where it is."""
    print(lines if isinstance(lines, str) else "\n".join(lines), flush=True)
