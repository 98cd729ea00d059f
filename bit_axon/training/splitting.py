"""A micro-batch in two parts, for a machine that is to work in shorter stretches."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bit_axon.training.batches import Batch
from bit_axon.training.shapes import rounded_up


def halves(batch: Batch) -> tuple[Batch, ...]:
    """The batch's rows in two parts, whose sums together are the batch's but for rounding.

    Rows of a group (the two sides of a pair) stay together, and rows keep their length. Both parts of all
    batches of one shape have one shape: where the number of groups is odd, one part is filled up with
    padding, and targets get as many slots as any batch of that shape may need.

    Args:
        batch: of a plan.

    Returns:
        The batch itself where it has one group, and one part where the other would be padding alone.
    """
    groups = len(batch.tokens) // batch.group_size
    if groups < 2:
        return (batch,)
    targets = batch.mask.reshape(batch.group_size, groups, -1).sum(axis=(0, 2))
    # Taken in turn from the largest down, so that the parts differ by one group's targets at most.
    order = np.argsort(-targets, kind="stable")
    size = -(-groups // 2)
    parts = [_part(batch, np.sort(order[first::2]), size) for first in (0, 1)]
    return tuple(part for part in parts if part.examples) or (batch,)


def _part(batch: Batch, groups: NDArray[np.intp], size: int) -> Batch:
    """`size` groups: these of the batch's, and padding behind them."""
    tokens, mask, segments = (
        _rows(values, batch.group_size, groups, size) for values in (batch.tokens, batch.mask, batch.segments)
    )
    examples_of_rows = segments.max(axis=1)
    separators = int(np.maximum(examples_of_rows - 1, 0).sum())
    return replace(
        batch,
        tokens=tokens,
        mask=mask,
        segments=segments,
        examples=int(examples_of_rows.reshape(batch.group_size, size).max(axis=0).sum()),
        real_tokens=int(np.count_nonzero(segments)) - separators,
        supervised_tokens=int(mask.sum()),
        target_slots=_target_slots(batch, size),
    )


def _rows(values: NDArray[Any], group_size: int, groups: NDArray[np.intp], size: int) -> NDArray[Any]:
    """Of each of the `group_size` blocks of rows these, and rows of zeros behind them up to `size`."""
    chosen = values.reshape(group_size, -1, values.shape[1])[:, groups]
    filled = np.pad(chosen, ((0, 0), (0, size - len(groups)), (0, 0)))
    return filled.reshape(group_size * size, -1)


def _target_slots(batch: Batch, size: int) -> int:
    """Enough for either part: half of all targets, and half of what one group can have more.

    Depends on the batch's shape alone.
    """
    of_a_group = batch.group_size * (batch.tokens.shape[1] - 1)  # the first token of a row is no target
    return rounded_up((batch.target_slots + of_a_group) // 2, min(batch.target_slots, size * of_a_group))
