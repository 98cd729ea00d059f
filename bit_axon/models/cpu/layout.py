"""How the sequences of a batch lie behind each other in one row without padding, and who sees whom.

    pair           prompt P, chosen C, rejected R
    laid out       P P P P C C C R R
    positions      0 1 2 3 4 5 6 4 5
    C sees         P and C; R sees P and R

Attention is a list of tiles: a range of queries, the ranges of keys before them, and a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bit_axon.backend import mx

Range = tuple[int, int]  # from, to (not included)

_QUERIES = 256  # of a tile at most: half of a long causal square is never computed
_GROUP = 96  # tokens up to which short sequences share a tile
_HIDDEN = -1e30  # added to scores that must not count; finite, so that a hidden row gives no NaN


@dataclass(frozen=True)
class Piece:
    """A stretch of tokens that attends to itself, causally, and to a piece before it.

    Attributes:
        tokens: `(T,)` int32.
        parent: number of the piece it continues, or None. A parent has no parent.
    """

    tokens: NDArray[np.int32]
    parent: int | None = None


@dataclass(frozen=True, eq=False)
class Tile:
    """A part of the attention matrix.

    Attributes:
        queries: rows.
        keys: ranges of columns; behind each other they are what the mask's columns stand for.
        mask: `(queries, keys)` float32, added to the scores; None = everything is seen.
    """

    queries: Range
    keys: tuple[Range, ...]
    mask: mx.array | None


@dataclass(frozen=True, eq=False)
class Layout:
    """One row of pieces.

    Attributes:
        tokens: `(N,)` int32.
        positions: `(N,)` int32; a piece goes on counting where its parent ends.
        starts: where each piece begins.
        tiles: cover all queries, in order.
    """

    tokens: mx.array
    positions: mx.array
    longest: int  # the largest position + 1
    starts: tuple[int, ...]
    tiles: tuple[Tile, ...]


def lay_out(pieces: Sequence[Piece]) -> Layout:
    """Puts pieces behind each other; a parent stands before its children."""
    sizes = [len(piece.tokens) for piece in pieces]
    starts = [0, *np.cumsum(sizes).tolist()]
    first = [0 if piece.parent is None else sizes[piece.parent] for piece in pieces]
    positions = np.concatenate([np.arange(f, f + size) for f, size in zip(first, sizes, strict=True)])
    return Layout(
        tokens=mx.array(np.concatenate([piece.tokens for piece in pieces]).astype(np.int32)),
        positions=mx.array(positions.astype(np.int32)),
        longest=int(positions.max(initial=0)) + 1,
        starts=tuple(starts[:-1]),
        tiles=_Tiler(pieces, starts).tiles(),
    )


class _Tiler:
    """Tiles for pieces that begin at `starts`; equal masks are made once."""

    def __init__(self, pieces: Sequence[Piece], starts: Sequence[int]):
        self._pieces = pieces
        self._starts = starts
        self._masks: dict[tuple[object, ...], mx.array] = {}

    def tiles(self) -> tuple[Tile, ...]:
        found: list[Tile] = []
        group: list[int] = []
        for number, piece in enumerate(self._pieces):
            fits = piece.parent is None and self._size([*group, number]) <= _GROUP
            if group and not fits:
                found.append(self._grouped(group))
                group = []
            if fits:
                group.append(number)
            else:
                found.extend(self._single(number))
        if group:
            found.append(self._grouped(group))
        return tuple(found)

    def _range(self, number: int) -> Range:
        return self._starts[number], self._starts[number + 1]

    def _size(self, group: Sequence[int]) -> int:
        return self._starts[group[-1] + 1] - self._starts[group[0]]

    def _grouped(self, group: Sequence[int]) -> Tile:
        """Short pieces in one square, each seeing itself alone."""
        sizes = [stop - start for start, stop in map(self._range, group)]
        owner = np.repeat(np.arange(len(group)), sizes)
        steps = np.arange(len(owner))
        seen = (owner[:, None] == owner[None, :]) & (steps[:, None] >= steps[None, :])
        span = (self._starts[group[0]], self._starts[group[-1] + 1])
        return Tile(span, (span,), self._mask(("group", *sizes), seen))

    def _single(self, number: int) -> list[Tile]:
        """A causal triangle, in strips, beside all of the parent."""
        start, stop = self._range(number)
        parent = self._pieces[number].parent
        before = () if parent is None else (self._range(parent),)
        shared = sum(end - begin for begin, end in before)
        tiles = []
        for low in range(start, stop, _QUERIES):
            high = min(low + _QUERIES, stop)
            columns = np.arange(shared + high - start)
            seen = columns[None, :] <= shared + np.arange(low - start, high - start)[:, None]
            mask = self._mask((high - low, shared + high - start), seen)
            tiles.append(Tile((low, high), (*before, (start, high)), mask))
        return tiles

    def _mask(self, key: tuple[object, ...], seen: NDArray[np.bool_]) -> mx.array:
        if key not in self._masks:
            self._masks[key] = mx.array(np.where(seen, 0.0, _HIDDEN).astype(np.float32))
        return self._masks[key]
