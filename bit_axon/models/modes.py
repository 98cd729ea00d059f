"""Training and evaluation mode of a model."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.nn as nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off within the block; the mode of before afterwards."""
    with in_mode(model, training=False):
        yield


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """The model in a mode within the block, whatever is done to it there; the mode of before afterwards."""
    was_training = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(was_training)
