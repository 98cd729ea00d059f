"""Batches for training: the plans, what they are made of, and plain iterators over them."""

from collections.abc import Iterator, Sequence

from bit_axon.data.examples import Example, PairExample, PreferenceItem
from bit_axon.training.batches import Batch, BatchCollator
from bit_axon.training.plans import PairBatchPlan, TokenBatchPlan

__all__ = [
    "Batch",
    "BatchCollator",
    "PairBatchPlan",
    "TokenBatchPlan",
    "iterate_batches",
    "iterate_orpo_batches",
]


def iterate_batches(
    dataset: Sequence[Example],
    batch_size: int,
    max_seq_len: int,
    *,
    eos_token_id: int,
    pad_token_id: int | None = None,
    shuffle: bool = True,
    seed: int = 42,
    loop: bool = False,
    packing: bool = True,
) -> Iterator[Batch]:
    """Packed batches of one epoch, or of endless epochs, each in another order, with `loop`.

    Raises:
        DataError: the set is empty.
    """
    plan = TokenBatchPlan(
        dataset,
        batch_size=batch_size,
        max_seq_len=max_seq_len,
        packing=packing,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id if pad_token_id is None else pad_token_id,
        seed=seed,
        shuffle=shuffle,
        require_full_batch=False,
    )
    return _batches(plan, loop)


def iterate_orpo_batches(
    dataset: Sequence[PairExample] | Sequence[PreferenceItem],
    batch_size: int,
    max_seq_len: int,
    *,
    pad_token_id: int,
    shuffle: bool = True,
    seed: int = 42,
    loop: bool = False,
) -> Iterator[Batch]:
    """Batches of whole pairs of one epoch, or of endless epochs with `loop`.

    Raises:
        DataError: the set is empty.
    """
    plan = PairBatchPlan(
        dataset,
        batch_size=batch_size,
        max_seq_len=max_seq_len,
        pad_token_id=pad_token_id,
        seed=seed,
        shuffle=shuffle,
        require_full_batch=False,
    )
    return _batches(plan, loop)


def _batches(plan: TokenBatchPlan | PairBatchPlan, loop: bool) -> Iterator[Batch]:
    epoch = 0
    while epoch == 0 or loop:
        for index in range(plan.batches_in_epoch(epoch)):
            yield plan.batch(epoch, index)
        epoch += 1
