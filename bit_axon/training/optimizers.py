"""Optimizers by name, with weight decay only where it belongs."""

from collections.abc import Callable

import mlx.nn as nn
import mlx.optimizers as optim

from bit_axon.backend import mx
from bit_axon.schema import TrainingOptions

_BUILDERS: dict[str, Callable[[float], optim.Optimizer]] = {
    # The rate given here is replaced before every update.
    "adamw": lambda decay: optim.AdamW(0.0, weight_decay=decay, bias_correction=True),
    "adam": lambda _: optim.Adam(0.0, bias_correction=True),
    "sgd": lambda decay: optim.SGD(0.0, momentum=0.9, weight_decay=decay),
    "lion": lambda decay: optim.Lion(0.0, weight_decay=decay),
}


def is_decayed(name: str, parameter: mx.array) -> bool:
    """Matrices decay; magnitudes, norms and biases (all vectors) do not."""
    return parameter.ndim > 1


def build_optimizer(options: TrainingOptions, model: nn.Module) -> optim.Optimizer:
    """An optimizer whose state exists already, so that the first step is traced like the others.

    Moments have bias correction. Weight decay acts on matrices alone: decoupled in adamw and lion, as an
    L2 gradient in sgd, not at all in adam.
    """
    build = _BUILDERS[options.optimizer]
    optimizer = optim.MultiOptimizer([build(options.weight_decay), build(0.0)], [is_decayed])
    optimizer.init(model.trainable_parameters())
    mx.eval(optimizer.state)
    return optimizer
