"""Few shapes for the batches of a run: where steps are compiled, each shape is compiled for itself.

A batch needs sizes: tokens per row, targets, and for pairs tokens of prompts and of responses. The sizes
are chosen together, for what the batches of a typical epoch need; the last shape holds any batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.int64]

MAX_SHAPES: Final = 8
SIZE_STEP: Final = 16
# What a target costs the head, in tenths of what a position costs the body: 4 for a model of half a billion
# parameters with a vocabulary of 150,000, less for larger ones.
TARGET_COST: Final = 4
POSITION_COST: Final = 10
_WORTH_A_SHAPE: Final = 0.02  # of all costs, what fills up batches included
_SEEN: Final = 1024  # batches
_CANDIDATES: Final = 512
_FINE_LEVELS: Final = 96
_PASSES: Final = 6


def rounded_up(size: int, limit: int) -> int:
    """The next multiple of 16, at most `limit`."""
    return min(-(-max(size, 1) // SIZE_STEP) * SIZE_STEP, limit)


@dataclass(frozen=True, eq=False)
class Shapes:
    """Sizes `(K, D)`, the cheapest shape first; the last holds every batch."""

    sizes: Indices

    def smallest(self, needs: Sequence[int]) -> list[int]:
        """The cheapest sizes that are enough.

        Args:
            needs: `(D,)`.

        Raises:
            ValueError: more than the last shape holds.
        """
        fits: NDArray[np.bool_] = np.all(self.sizes >= np.array(needs), axis=1)
        if not fits[-1]:
            raise ValueError(f"a batch that needs {list(needs)}, more than {self.sizes[-1].tolist()}")
        found: list[int] = self.sizes[int(np.argmax(fits))].tolist()
        return found


def choose_shapes(needs: Indices, limits: Sequence[int], costs: Sequence[int], fixed_cost: int = 0) -> Shapes:
    """At most eight shapes that waste little; another one is taken only while it saves two per cent.

    The best of a coarse grid is added to those there are, one by one; then each is exchanged while that
    saves anything, and each of its sizes is moved to where it serves best. All sums are of integers, so
    that every machine makes the same choice.

    Args:
        needs: `(M, D)`; what each batch of a typical epoch needs. A thousand of them are looked at.
        limits: `(D,)`; what is enough for any batch.
        costs: `(D,)`; of one unit of each size.
        fixed_cost: of a batch, whatever its shape.
    """
    most = np.array(limits)
    seen = needs[:: -(-len(needs) // _SEEN)]
    search = _Search(np.minimum(-(-seen // SIZE_STEP) * SIZE_STEP, most), np.array(costs), fixed_cost)
    coarse = [
        _levels(sizes, limit, round(_CANDIDATES ** (1 / len(limits))))
        for sizes, limit in zip(search.needs.T, limits, strict=True)
    ]
    fine = [_levels(sizes, limit, _FINE_LEVELS) for sizes, limit in zip(search.needs.T, limits, strict=True)]
    candidates = np.stack([axis.ravel() for axis in np.meshgrid(*coarse, indexing="ij")], axis=1)
    shapes = search.exchanged(search.grown(most[None], candidates), candidates)
    shapes = search.moved(shapes, fine)
    return Shapes(shapes[np.argsort(shapes @ search.costs, kind="stable")])


def _levels(sizes: Indices, limit: int, count: int) -> Indices:
    """At most about `count` of the sizes, rising to `limit`, with like shares of their sum in between."""
    distinct = np.unique(np.append(sizes, limit))
    if len(distinct) <= count:
        return distinct
    rising = np.sort(sizes)
    mass = np.cumsum(rising)
    shares = np.searchsorted(mass, mass[-1] * np.arange(1, count) // (count - 1))
    return np.unique(np.append(rising[np.minimum(shares, len(rising) - 1)], limit))


@dataclass(frozen=True, eq=False)
class _Search:
    """Looks for shapes `(K, D)`; the first of them holds every batch and stays.

    Attributes:
        needs: `(M, D)`; of batches.
        costs: `(D,)`.
        fixed_cost: of every batch.
    """

    needs: Indices
    costs: Indices
    fixed_cost: int

    def grown(self, shapes: Indices, candidates: Indices) -> Indices:
        """The shapes, and those candidates that are worth it."""
        prices = self._prices(candidates)
        while len(shapes) < MAX_SHAPES:
            best = self._prices(shapes).min(axis=1)
            totals = np.minimum(best[:, None], prices).sum(axis=0)
            added = int(np.argmin(totals))
            if best.sum() - totals[added] < _WORTH_A_SHAPE * best.sum():
                break
            shapes = np.vstack([shapes, candidates[added]])
        return shapes

    def exchanged(self, shapes: Indices, candidates: Indices) -> Indices:
        """The shapes, each exchanged for the best candidate while that is better."""
        prices = self._prices(candidates)
        for _ in range(_PASSES):
            before = shapes.copy()
            for place in range(1, len(shapes)):
                self._exchange(shapes, place, candidates, prices)
            if np.array_equal(shapes, before):
                break
        return shapes

    def moved(self, shapes: Indices, levels: Sequence[Indices]) -> Indices:
        """The shapes, each size of each moved to the best level while that is better."""
        for _ in range(_PASSES):
            before = shapes.copy()
            for place in range(1, len(shapes)):
                for kind, sizes in enumerate(levels):
                    candidates = np.tile(shapes[place], (len(sizes), 1))
                    candidates[:, kind] = sizes
                    self._exchange(shapes, place, candidates, self._prices(candidates))
            if np.array_equal(shapes, before):
                break
        return shapes

    def _exchange(self, shapes: Indices, place: int, candidates: Indices, prices: Indices) -> None:
        others = self._prices(np.delete(shapes, place, axis=0)).min(axis=1)
        totals = np.minimum(others[:, None], prices).sum(axis=0)
        now = np.minimum(others, self._prices(shapes[place : place + 1])[:, 0]).sum()
        best = int(np.argmin(totals))
        if totals[best] < now:
            shapes[place] = candidates[best]

    def _prices(self, shapes: Indices) -> Indices:
        """`(M, K)`; what each batch costs in each shape; very much if it does not fit."""
        fits = np.ones((len(self.needs), len(shapes)), bool)
        for need, sizes in zip(self.needs.T, shapes.T, strict=True):
            fits &= need[:, None] <= sizes
        return np.where(fits, shapes @ self.costs + self.fixed_cost, np.iinfo(np.int64).max)
