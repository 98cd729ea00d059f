"""From the rows of a batch to pieces without padding, with prompts that rows share laid out once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bit_axon.models.cpu.layout import Piece
from bit_axon.models.inputs import shared_length
from bit_axon.training.batches import Batch

_LEAST_SHARED: Final = 8  # tokens; a shorter common beginning is not worth a piece of its own


@dataclass(frozen=True)
class _Targets:
    """Targets of one sequence: `columns` of batch row `row`, run in a piece that begins at column `begin`."""

    row: int
    columns: NDArray[np.intp]
    piece: int
    begin: int


@dataclass(frozen=True)
class Pieces:
    """Pieces, and where the targets are in them."""

    pieces: list[Piece] = field(default_factory=list)
    targets: list[_Targets] = field(default_factory=list)

    def places(self, width: int) -> NDArray[np.int32]:
        """Where the targets are in `(B, width)`, the batch without its first column, read row by row."""
        found = [each.row * width + each.columns - 1 for each in self.targets]
        return np.concatenate(found).astype(np.int32)

    def hidden_rows(self, starts: Sequence[int]) -> NDArray[np.int32]:
        """The row that scores each target: a target in column c is predicted in column c - 1."""
        found = [starts[each.piece] + each.columns - 1 - each.begin for each in self.targets]
        return np.concatenate(found).astype(np.int32)


def pieces_of(batch: Batch) -> Pieces:
    """Every segment that has a target, up to the last of them."""
    found = Pieces()
    blocks = len(batch.tokens) // batch.group_size
    for first in range(blocks):
        _add_group(batch, range(first, len(batch.tokens), blocks), found)
    return found


def _add_group(batch: Batch, rows: Sequence[int], found: Pieces) -> None:
    """Rows that begin with the same prompt, or a single row."""
    sequences = [each for row in rows for each in _sequences(batch, row)]
    shared = shared_length(batch, rows) if len(rows) > 1 else 0
    parent = None
    if shared >= _LEAST_SHARED and len(sequences) == len(rows):
        parent = len(found.pieces)
        found.pieces.append(Piece(batch.tokens[rows[0], :shared]))
    for row, begin, columns in sequences:
        start = begin if parent is None else shared
        found.targets.append(_Targets(row, columns, len(found.pieces), start))
        found.pieces.append(Piece(batch.tokens[row, start : int(columns[-1])], parent))


def _sequences(batch: Batch, row: int) -> list[tuple[int, int, NDArray[np.intp]]]:
    """`(row, first column, columns of its targets)` of every segment that has a target."""
    columns = np.flatnonzero(batch.mask[row, 1:]) + 1
    if not len(columns):
        return []
    segments = batch.segments[row]
    cuts = np.flatnonzero(np.diff(segments[columns])) + 1
    return [(row, int(np.argmax(segments == segments[part[0]])), part) for part in np.split(columns, cuts)]
