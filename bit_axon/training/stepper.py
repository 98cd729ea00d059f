"""One optimizer update: sums over micro-batches, then a single division, clipping and the update."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_map_with_path

from bit_axon.backend import Compilation, mx
from bit_axon.models.inputs import ArrayBatch
from bit_axon.models.modes import evaluating
from bit_axon.models.policy import Policy
from bit_axon.training.collate import Batch
from bit_axon.training.dora import RowNorms
from bit_axon.training.methods import Method

_DROPOUT_STREAM = 1  # keeps dropout's random numbers apart from those of the data order


@dataclass(frozen=True)
class StepResult:
    """Numbers of one update, evaluated."""

    loss: float
    grad_norm: float  # before clipping
    metrics: dict[str, float]


def micro_batch_seed(seed: int, micro_batch: int, piece: int = 0) -> int:
    """The seed of everything random within one micro-batch: a function of its number alone.

    The second part of a micro-batch that was split (`piece` 1) draws other numbers than the first.
    """
    words = [seed, _DROPOUT_STREAM, micro_batch, *([piece] if piece else [])]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


class Stepper:
    """Adds up micro-batches and applies updates, through two compiled functions.

    Args:
        policy: the model as the method sees it; only its trainable parameters change.
        method: the loss.
        optimizer: with its state initialised.
        max_grad_norm: clipping threshold of the global gradient norm; 0 = no clipping.
        seed: of the run; dropout in micro-batch n depends on `(seed, n)` alone.
        compilation: what goes through `mx.compile`.
    """

    def __init__(
        self,
        policy: Policy,
        method: Method,
        optimizer: optim.Optimizer,
        *,
        max_grad_norm: float,
        seed: int,
        compilation: Compilation,
    ):
        self.policy, self.method, self.optimizer = policy, method, optimizer
        self._seed = seed
        self._max_grad_norm = max_grad_norm
        self._sums = self._zero_sums()  # loss, weight, metrics and gradients of the step so far
        self._norms = RowNorms(policy.model)
        self._shapes: set[tuple[tuple[int, ...], ...]] = set()
        model = policy.model
        random_state = mx.random.state
        self._compiles_step = compilation.step
        step, update = _compiler(compilation.step), _compiler(compilation.update)
        self._accumulate = step([model.state, random_state], [random_state])(self._accumulate_plain)
        self._apply = update([model.state, optimizer.state], [model.state, optimizer.state])(
            self._apply_plain
        )
        self._evaluate = step([model.state], [])(self._loss_sums)

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        return self.policy.model

    def add(self, batch: Batch, micro_batch: int, *, piece: int = 0) -> bool:
        """Adds a micro-batch to the current step; returns whether its shape was new (and compiled).

        The device may still be at work when this returns.
        """
        mx.random.seed(micro_batch_seed(self._seed, micro_batch, piece))
        self.model.train()
        if self.policy.is_written_out:
            found, gradients = self.policy.sums_and_gradients(self.method.loss, batch)
            self._sums = tree_map(mx.add, self._sums, (*found, gradients))
            mx.eval(self._sums)
            return False
        arrays = self.policy.arrays(batch)
        shape = tuple(tuple(array.shape) for _, array in tree_flatten(arrays))
        is_new = shape not in self._shapes
        self._shapes.add(shape)
        self.wait()  # one micro-batch at a time, or their memory adds up
        with self._norms.held():
            self._sums = self._accumulate(arrays, self._sums)
        mx.async_eval(self._sums)
        return is_new and self._compiles_step

    def wait(self) -> None:
        """Returns once the device has done all that was added."""
        mx.eval(self._sums)

    def discard(self) -> None:
        """Forgets a step that was begun, once the device is done with it."""
        self.wait()
        self._sums = self._zero_sums()

    def apply(self, learning_rate: float) -> StepResult:
        """Divides, clips, updates; the step is over."""
        self.optimizer.learning_rate = learning_rate
        loss, norm, metrics = self._apply(self._sums)
        mx.eval(loss, norm, metrics, self.model.state, self.optimizer.state)
        self._sums = self._zero_sums()
        values = {name: float(value.item()) for name, value in metrics.items()}
        return StepResult(float(loss.item()), float(norm.item()), values)

    def evaluate(self, batch: Batch) -> tuple[float, float, dict[str, float]]:
        """Loss sum, weight and metric sums of one batch, without dropout or gradients."""
        with evaluating(self.model):
            if self.policy.is_written_out:
                sums = self.policy.sums(self.method.loss, batch)
            else:
                with self._norms.held():
                    sums = self._evaluate(self.policy.arrays(batch))
                mx.eval(sums)
        loss, weight, metrics = sums
        return float(loss.item()), float(weight.item()), {k: float(v.item()) for k, v in metrics.items()}

    def _loss_sums(self, arrays: ArrayBatch) -> Any:
        return self.method.loss(self.policy, ArrayBatch(*arrays))

    def _accumulate_plain(self, arrays: ArrayBatch, sums: Any) -> Any:
        found, gradients = self.policy.differentiated(self.method.loss, ArrayBatch(*arrays))
        return tree_map(mx.add, sums, (*found, gradients))

    def _zero_sums(self) -> Any:
        scalars = {name: mx.array(0.0) for name in self.method.metrics}
        parameters = tree_flatten(self.model.trainable_parameters())
        gradients = {path: mx.zeros(p.shape, mx.float32) for path, p in parameters}
        return mx.array(0.0), mx.array(0.0), scalars, gradients

    def _apply_plain(self, sums: Any) -> Any:
        loss, weight, metrics, gradients = sums
        gradients, metrics = (tree_map(lambda total: total / weight, tree) for tree in (gradients, metrics))
        norm = _global_norm(gradients)
        if self._max_grad_norm:
            factor = mx.minimum(self._max_grad_norm / mx.maximum(norm, 1e-12), 1.0)
            gradients = tree_map(lambda gradient: gradient * factor, gradients)
        parameters = self.model.trainable_parameters()
        # An update in float32 would turn 16-bit parameters into float32 ones.
        shaped = tree_map_with_path(lambda path, p: gradients[path].astype(p.dtype), parameters)
        self.optimizer.update(self.model, shaped)
        return loss / weight, norm, metrics


def _global_norm(gradients: Any) -> mx.array:
    squares = tree_map(lambda g: mx.sum(mx.square(g.astype(mx.float32))), gradients)
    leaves = [leaf for _, leaf in tree_flatten(squares)]
    return mx.sqrt(sum(leaves, mx.array(0.0)))


def _compiler(enabled: bool) -> Callable[[list[Any], list[Any]], Callable[[Any], Any]]:
    def wrap(inputs: list[Any], outputs: list[Any]) -> Callable[[Any], Any]:
        return partial(mx.compile, inputs=inputs, outputs=outputs) if enabled else (lambda function: function)

    return wrap
