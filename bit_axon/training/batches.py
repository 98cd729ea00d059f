"""Batches: examples, pairs and packs as NumPy arrays of a few fixed shapes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bit_axon.data.examples import Example, PairExample
from bit_axon.training.packing import join


@dataclass(frozen=True, eq=False)
class Batch:
    """One micro-batch.

    For pairs, rows `0..P-1` are the chosen and rows `P..2P-1` the rejected sequences of the same pairs.
    Rows that are missing in the last batch of an epoch are padding throughout.

    Attributes:
        tokens: `(B, T)` int32.
        mask: `(B, T)` float32; 1 where the token is a target. A target has a token of its own segment
            before it.
        segments: `(B, T)` int32; 0 is padding, 1.. the example within the row.
        examples: examples (pairs) in the batch.
        real_tokens: tokens of examples; padding and separators are not counted.
        supervised_tokens: targets.
        group_size: 2 for pairs: the rows are so many equal blocks, and the rows at one place in all
            blocks begin with the same prompt.
        target_slots: N, the size that the targets are filled up to; never less than there are.
        prompt_slots: the size that prompts of groups are filled up to where they run once; what a prompt
            has beyond it belongs to the response. A prompt ends before the token that predicts the first
            target.
        response_slots: the size of what runs behind the prompts; the last token of a row does not. 0 = no
            sizes are planned.
    """

    tokens: NDArray[np.int32]
    mask: NDArray[np.float32]
    segments: NDArray[np.int32]
    examples: int
    real_tokens: int
    supervised_tokens: int
    group_size: int = 1

    target_slots: int = 0
    prompt_slots: int = 0
    response_slots: int = 0

    def __post_init__(self) -> None:
        """A batch that no plan has made has as many slots as targets."""
        if self.target_slots < self.supervised_tokens:
            object.__setattr__(self, "target_slots", self.supervised_tokens)


def split_batch(batch: Batch, count: int) -> list[Batch]:
    """At most `count` batches of about as many tokens, whose targets together are the batch's.

    Each has all rows, and the targets of some of its examples; rows that belong together stay so.
    """
    units = _units(batch)
    loads = [0] * min(count, max(len(units), 1))
    masks = [np.zeros_like(batch.mask) for _ in loads]
    for rows, segment, size in sorted(units, key=lambda unit: -unit[2]):
        lightest = loads.index(min(loads))
        loads[lightest] += size
        chosen = batch.segments[rows] == segment
        masks[lightest][rows] += batch.mask[rows] * chosen
    return [replace(batch, mask=mask, supervised_tokens=int(mask.sum())) for mask in masks]


def _units(batch: Batch) -> list[tuple[list[int], int, int]]:
    """`(rows, segment, tokens)` of all examples that have a target."""
    blocks = len(batch.tokens) // batch.group_size
    units = []
    for first in range(blocks):
        rows = list(range(first, len(batch.tokens), blocks))
        segments = batch.segments[rows]
        for segment in np.unique(segments[batch.mask[rows] > 0]).tolist():
            units.append((rows, segment, int((segments == segment).sum())))
    return units


class BatchCollator:
    """Puts examples into arrays of bucket lengths.

    Args:
        pad_token_id: fills short rows.
        length_buckets: the lengths `T` that may occur, rising; rows longer than the last are cut to it.
    """

    def __init__(self, pad_token_id: int, length_buckets: Sequence[int]):
        self._pad_token_id = pad_token_id
        self.length_buckets = tuple(length_buckets)

    def bucket(self, length: int) -> int:
        """The smallest `T` that holds `length` tokens, else the largest there is."""
        return next((bucket for bucket in self.length_buckets if bucket >= length), self.length_buckets[-1])

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """One example per row, as many rows as examples."""
        longest = max((len(example.token_ids) for example in examples), default=1)
        return self.examples(examples, len(examples), self.bucket(longest))

    def examples(self, examples: Sequence[Example], rows: int, length: int) -> Batch:
        """One example per row of `length` tokens; rows without one are padding."""
        return self._stacked([[e] for e in examples], rows, length, eos_token_id=self._pad_token_id)

    def packs(self, packs: Sequence[Sequence[Example]], rows: int, length: int, eos_token_id: int) -> Batch:
        """Several examples per row of `length` tokens, `eos_token_id` between them."""
        return self._stacked(packs, rows, length, eos_token_id=eos_token_id)

    def pairs(self, pairs: Sequence[PairExample], rows: int, length: int) -> Batch:
        """`rows` chosen sequences above `rows` rejected ones."""
        chosen, rejected = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]
        missing: list[list[Example]] = [[]] * (rows - len(pairs))
        filled = [[e] for e in chosen] + missing + [[e] for e in rejected]
        batch = self._stacked(filled, 2 * rows, length, eos_token_id=self._pad_token_id)
        return replace(batch, examples=len(pairs), group_size=2)

    def _stacked(
        self, packs: Sequence[Sequence[Example]], rows: int, length: int, *, eos_token_id: int
    ) -> Batch:
        filled = [*packs, *[[]] * (rows - len(packs))]
        made = [join(pack, length, eos_token_id, self._pad_token_id) for pack in filled]
        segments = np.stack([row.segment_ids for row in made])
        mask = np.stack([row.loss_mask for row in made]).astype(np.float32)
        # The first token of a segment has nothing to be predicted from, whatever its mask says.
        mask[:, :1] = 0
        mask[:, 1:][segments[:, 1:] != segments[:, :-1]] = 0
        return Batch(
            tokens=np.stack([row.token_ids for row in made]),
            mask=mask,
            segments=segments,
            examples=sum(len(pack) for pack in packs),
            real_tokens=sum(min(len(e.token_ids), length) for pack in packs for e in pack),
            supervised_tokens=int(mask.sum()),
        )
