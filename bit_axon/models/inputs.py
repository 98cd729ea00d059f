"""A batch on the device, and what runs it: the two sides of the seam between methods and models."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bit_axon.backend import mx
from bit_axon.training.batches import Batch


class ArrayBatch(NamedTuple):
    """A batch on the device.

    Attributes:
        mask: `(B, T)` float32; 1 where the token is a target.
        targets: `(N,)` int32; the target tokens.
        places: `(N,)` int32; where they are in `tokens[:, 1:]` read row by row.
        weights: `(N,)` float32; the mask at these places, 0 for what fills up to one of a few sizes.
        inputs: what the runner needs.
    """

    mask: mx.array
    targets: mx.array
    places: mx.array
    weights: mx.array
    inputs: Any


class LogpSource(Protocol):
    """What a loss needs of a policy."""

    def token_logps(self, batch: ArrayBatch) -> mx.array:
        """`(B, T)` float32: log p(token t | tokens before t of its segment); 0 where it is no target."""


class Runner(Protocol):
    """A way to run a model's body over a batch."""

    def place(self, batch: Batch) -> ArrayBatch:
        """The batch on the device."""

    def rows(self, arrays: ArrayBatch) -> mx.array:
        """`(N, H)`; the hidden state before each target."""


def target_places(batch: Batch) -> NDArray[np.intp]:
    """`(N,)`; where the targets are in `tokens[:, 1:]` read row by row."""
    return np.flatnonzero(batch.mask[:, 1:])


def padded_to(values: NDArray[Any], size: int) -> NDArray[Any]:
    """`values` with zeros behind them, `size` long."""
    return np.concatenate([values, np.zeros(size - len(values), values.dtype)])


def shared_length(batch: Batch, rows: Sequence[int]) -> int:
    """Tokens that all these rows begin with, leaving out the one that predicts the first target."""
    tokens = batch.tokens[list(rows)]
    equal = (tokens == tokens[0]).all(axis=0)
    common = len(equal) if equal.all() else int(np.argmin(equal))
    firsts = [np.flatnonzero(batch.mask[row]) for row in rows]
    first = min((int(columns[0]) for columns in firsts if len(columns)), default=0)
    return max(min(common, first - 1), 0)
