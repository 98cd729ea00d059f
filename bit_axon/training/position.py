"""Where a micro-batch lies in the endless stream of epochs."""

from typing import Protocol

from bit_axon.training.collate import Batch


class Plan(Protocol):
    """Batches by position; a pure function."""

    def batches_in_epoch(self, epoch: int) -> int:
        """Micro-batches in the epoch."""

    def batch(self, epoch: int, index: int) -> Batch:
        """The same arrays at every call."""


class Position:
    """Finds the epoch and index of a micro-batch in the endless stream of epochs."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._ends: list[int] = []

    def find(self, micro_batch: int) -> tuple[int, int]:
        """Epoch and index within it."""
        while not self._ends or micro_batch >= self._ends[-1]:
            start = self._ends[-1] if self._ends else 0
            self._ends.append(start + self._plan.batches_in_epoch(len(self._ends)))
        epoch = next(e for e, end in enumerate(self._ends) if micro_batch < end)
        return epoch, micro_batch - (self._ends[epoch - 1] if epoch else 0)

    def epochs(self, micro_batch: int) -> float:
        """Passes over the training set after `micro_batch` micro-batches."""
        if micro_batch == 0:
            return 0.0
        epoch, index = self.find(micro_batch - 1)
        return epoch + (index + 1) / self._plan.batches_in_epoch(epoch)


def micro_batches_in(plan: Plan, epochs: float) -> int:
    """Micro-batches in so many passes; the last pass may be a part of one."""
    whole = int(epochs)
    count = sum(plan.batches_in_epoch(epoch) for epoch in range(whole))
    return max(count + round((epochs - whole) * plan.batches_in_epoch(whole)), 1)
