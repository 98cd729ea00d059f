"""Encodes rows into a cache entry, a few hundred at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from bit_axon.data.encoding import Cut, Encoder, cut
from bit_axon.data.formats import RowFormat, formatted, pair_of
from bit_axon.data.reading import Row
from bit_axon.data.samples import Sample
from bit_axon.data.store import Counts, StoreWriter, save_entry
from bit_axon.errors import DataError, problem

ExampleKind = Literal["tokens", "pairs"]

_BATCH_ROWS = 512
SIDES: dict[ExampleKind, tuple[str, ...]] = {"tokens": ("tokens",), "pairs": ("chosen", "rejected")}


def row_samples(row: Row, row_format: RowFormat, kind: ExampleKind) -> tuple[Sample, ...]:
    """The row's sequence, or its chosen and rejected one."""
    if kind == "tokens":
        return (row_format.sample(row),)
    pair = pair_of(row, row_format)
    return (pair.chosen, pair.rejected)


@dataclass
class _Tally:
    rows: int = 0
    truncated: int = 0
    too_long: int = 0
    masked: int = 0
    kept: list[int] = field(default_factory=list)

    def add(self, cuts: Sequence[Cut]) -> bool:
        """Counts one row; whether it is kept."""
        self.rows += 1
        usable = all(side.usable for side in cuts)
        if usable:
            self.truncated += any(side.truncated for side in cuts)
            self.kept[-1] += 1
        elif any(side.masked for side in cuts):
            self.masked += 1
        else:
            self.too_long += 1
        return usable

    def counts(self) -> Counts:
        return Counts(self.rows, self.truncated, self.too_long, self.masked, tuple(self.kept))


def build_entry(
    folder: Path,
    sources: Iterable[Callable[[], Iterator[Row]]],
    *,
    name: str,
    kind: ExampleKind,
    format: str,
    encoder: Encoder,
    max_seq_len: int,
) -> None:
    """Writes the examples of all sources into `folder`.

    Args:
        folder: exists and is empty.
        sources: each opens the rows of one source.
        name: of the sources, for messages.
        kind: single sequences or pairs.
        format: a name of `formats.FORMATS`, or `auto`.
        encoder: makes the tokens.
        max_seq_len: longer examples are cut on the right.

    Raises:
        DataError: a row is wrong, or no row has a target.
    """
    sides = SIDES[kind]
    writers = [StoreWriter(folder, side) for side in sides]
    tally = _Tally()
    try:
        for open_rows in sources:
            tally.kept.append(0)
            rows = formatted(open_rows(), format)
            while batch := [row_samples(*pair, kind) for pair in islice(rows, _BATCH_ROWS)]:
                cuts = _cut_rows(batch, encoder, max_seq_len)
                kept = [row for row in cuts if tally.add(row)]
                for number, writer in enumerate(writers):
                    writer.append([row[number].example for row in kept])
        for writer in writers:
            writer.close()
    finally:
        for writer in writers:
            writer.abandon()
    _require_examples(tally, max_seq_len, name)
    save_entry(folder, tally.counts(), sides)


def _cut_rows(
    batch: Sequence[tuple[Sample, ...]], encoder: Encoder, max_seq_len: int
) -> list[tuple[Cut, ...]]:
    """Encodes each side of the rows in one go."""
    sides = [encoder.encode([row[number] for row in batch]) for number in range(len(batch[0]))]
    return [tuple(cut(example, max_seq_len) for example in row) for row in zip(*sides, strict=True)]


def _require_examples(tally: _Tally, max_seq_len: int, name: str) -> None:
    if sum(tally.kept):
        return
    if tally.too_long:
        raise DataError(
            problem(
                "a row whose answer starts within data.max_seq_len",
                f"{tally.rows} rows, none of which fits {max_seq_len} tokens: all too long",
                "Raise data.max_seq_len, or shorten the prompts.",
                where=name,
            )
        )
    raise DataError(
        problem(
            "a row with a token to learn",
            f"{tally.rows} rows, all masked",
            "Check that the answers are not empty, or set data.mask_prompt=false.",
            where=name,
        )
    )
