"""What an encoded row is. Labels are not shifted here; the policy does that, and only the policy."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]
LossMask = NDArray[np.uint8]


class Example(NamedTuple):
    """One sequence.

    Attributes:
        token_ids: `(L,)` int32.
        loss_mask: `(L,)` uint8; 1 where the token is a target, predicted from the tokens before it.
            The first token has nothing before it and is never one.
    """

    token_ids: TokenIds
    loss_mask: LossMask


class PairExample(NamedTuple):
    """A preferred and a rejected answer to one prompt; both sides include the prompt, with mask 0."""

    chosen: Example
    rejected: Example


class PreferenceItem(NamedTuple):
    """One pair, flat, as `ORPODataset` yields it.

    Attributes:
        chosen_ids: `(L,)` int32.
        chosen_mask: `(L,)` uint8.
        rejected_ids: `(M,)` int32.
        rejected_mask: `(M,)` uint8.
    """

    chosen_ids: TokenIds
    chosen_mask: LossMask
    rejected_ids: TokenIds
    rejected_mask: LossMask

    @property
    def pair(self) -> PairExample:
        """The same as two examples."""
        return PairExample(
            Example(self.chosen_ids, self.chosen_mask), Example(self.rejected_ids, self.rejected_mask)
        )
