"""Data sources that come with the package, by name.

demo/train, demo/valid            files: {"prompt", "chosen", "rejected"}
pretrain/train, pretrain/valid    generated: {"prompt", "completion"}; `?rows=N&seed=S` may follow
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Final
from urllib.parse import parse_qsl

from bit_axon.embedded import forms, tasks
from bit_axon.errors import DataError, problem

ASSETS: Final = Path(__file__).resolve().parent / "assets"
DEMO_NAMES: Final = ("demo/train", "demo/valid")
PRETRAIN_ROWS: Final = {"pretrain/train": 200_000, "pretrain/valid": 1_000}
_DEFAULT_SEED: Final = 7


def nano_path() -> Path:
    """The folder of the embedded model: config, tokenizer and weights, as any local model folder."""
    return ASSETS / "nano"


def path_of(name: str) -> Path | None:
    """The file behind a source, or None when it is generated; raises DataError for an unknown name."""
    base, _ = _parsed(name)
    return ASSETS / f"{base}.jsonl" if base in DEMO_NAMES else None


def read(name: str) -> Iterator[dict[str, str]]:
    """The rows of a source, in order, the same ones every time.

    `rows` limits the count; `seed` (whole number) draws other pretraining rows. Raises DataError for an
    unknown name or option before the first row.
    """
    base, options = _parsed(name)
    if base in DEMO_NAMES:
        return islice(_stored(ASSETS / f"{base}.jsonl"), options.get("rows"))
    rows = options.get("rows", PRETRAIN_ROWS[base])
    return islice(_generated(base, options.get("seed", _DEFAULT_SEED)), rows)


def _stored(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _generated(base: str, seed: int) -> Iterator[dict[str, str]]:
    """Pretraining rows without end; prompts that belong to another set are passed over."""
    rng = Random(f"{base}-{seed}")
    wanted_split = "train" if base == "pretrain/train" else base
    for task in tasks.stream(rng, stress_hard=True):
        if tasks.split_of(task.prompt) == wanted_split:
            yield {"prompt": task.prompt, "completion": forms.native(task, rng)}


def _parsed(name: str) -> tuple[str, dict[str, int]]:
    """Split "base?rows=N&seed=S"; every option is a whole number."""
    base, _, query = name.partition("?")
    names = (*DEMO_NAMES, *PRETRAIN_ROWS)
    if base not in names:
        raise DataError(
            problem(
                f"an embedded source ({', '.join(names)})", repr(base), "Correct the name after `embedded:`."
            )
        )
    allowed = {"rows"} if base in DEMO_NAMES else {"rows", "seed"}
    options: dict[str, int] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in allowed or not value.isascii() or not value.isdigit():
            raise DataError(
                problem(
                    f"options {' and '.join(sorted(allowed))} with whole numbers",
                    f"{key}={value}",
                    f"Write it like `embedded:{base}?rows=1000`.",
                )
            )
        options[key] = int(value)
    return base, options
