"""What a method sees of a model: log-probabilities of target tokens, never logits.

This is the seam for speed. Whether the head runs on all positions or on the supervised ones, how packs
are masked and how a prompt is shared is decided here, and no method changes.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from bit_axon.backend import available_cores, mx, reuse_freed_memory
from bit_axon.models.checkpointing import checkpointed
from bit_axon.models.cpu.kernels import runs_on_cpu
from bit_axon.models.cpu.runner import CpuRunner, cpu_runner
from bit_axon.models.cpu.streams import Steps, Streams
from bit_axon.models.forked import ForkedRunner, forking_is_exact
from bit_axon.models.head import Head, logps_and_slopes, split_model, target_logps
from bit_axon.models.inputs import ArrayBatch, LogpSource, Runner
from bit_axon.models.modes import evaluating
from bit_axon.models.padded import PaddedRunner
from bit_axon.training.batches import Batch, split_batch
from bit_axon.training.losses import token_logps

LossSumsOf = Callable[[LogpSource, ArrayBatch], Any]  # sums, the first of which is differentiated


class Policy:
    """A model as the methods use it.

    Args:
        model: any mlx-lm model, adapters attached.
        packed: whether rows hold several examples that must not see each other.
        vocab_size: ids of the model's vocabulary that may be tried out.
        compiled: whether steps are compiled, so that their shapes must be few.
        checkpointing: whether blocks are run again in the backward pass; on a CPU little is kept anyway.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        packed: bool,
        vocab_size: int,
        compiled: bool = False,
        checkpointing: bool = False,
    ):
        self.model = model
        with evaluating(model):
            split = split_model(model, vocab_size)
            self._head: Head | None = None if split is None else split.head
            body: Any = model if split is None else split.body
            self._cpu: CpuRunner | None = None
            if split is not None and split.head.is_frozen and runs_on_cpu() and not compiled:
                self._cpu = cpu_runner(model, split.body, vocab_size)
            if checkpointing and self._cpu is None:
                body = checkpointed(body, vocab_size)
            self._runner = self._row_runner(body, packed=packed, vocab_size=vocab_size)
        if self._cpu is not None:
            reuse_freed_memory()
        self._streams = Streams(available_cores() if self._cpu else 1)

    def _row_runner(self, body: Callable[..., Any], *, packed: bool, vocab_size: int) -> Runner:
        blocks = len(self.model.layers)
        plain = PaddedRunner(body, blocks, packed=packed)
        shares = self._cpu is None and not packed and forking_is_exact(self.model, vocab_size)
        return ForkedRunner(body, blocks, plain) if shares else plain

    @property
    def is_written_out(self) -> bool:
        """Whether gradients come from written-out passes, which are not to be compiled."""
        return self._cpu is not None

    def arrays(self, batch: Batch) -> ArrayBatch:
        """The batch on the device, as `token_logps` takes it."""
        return self._runner.place(batch)

    def token_logps(self, batch: ArrayBatch) -> mx.array:
        """`(B, T)` float32: log p(token t | tokens before t of its segment); 0 where it is no target.

        The one place where labels are shifted: the hidden state at t-1 scores the token at t.
        """
        rows = self._runner.rows(batch)
        if self._head is None:
            return _in_places(token_logps(rows, batch.targets), batch)
        return _in_places(target_logps(self._head, rows, batch.targets), batch)

    def sums(self, loss: LossSumsOf, batch: Batch) -> Any:
        """The loss's sums over a batch, evaluated; without gradients."""
        if not batch.supervised_tokens:
            return self._without_targets(loss, batch)
        return _added(self._in_parts(batch, partial(self._forward_steps, loss)))

    def sums_and_gradients(self, loss: LossSumsOf, batch: Batch) -> tuple[Any, dict[str, mx.array]]:
        """The loss's sums over a batch and the gradients of the first of them, by path; evaluated."""
        if not batch.supervised_tokens:
            trained = tree_flatten(self.model.trainable_parameters())
            return self._without_targets(loss, batch), {path: mx.zeros(p.shape) for path, p in trained}
        sums, gradients = _added(self._in_parts(batch, partial(self._both_steps, loss)))
        return sums, gradients

    def _without_targets(self, loss: LossSumsOf, batch: Batch) -> Any:
        nothing = mx.zeros((0,))
        arrays = ArrayBatch(mx.array(batch.mask), nothing, nothing, nothing, None)
        return tuple(loss(_Given(mx.zeros(batch.mask.shape)), arrays))

    def _in_parts(self, batch: Batch, run: Callable[[ArrayBatch], Steps[Any]]) -> list[Any]:
        assert self._cpu is not None
        self._cpu.refresh(self._streams)
        parts = split_batch(batch, self._streams.count)
        return self._streams.run([run(self._cpu.place(part)) for part in parts])

    def _forward_steps(self, loss: LossSumsOf, batch: ArrayBatch) -> Steps[Any]:
        assert self._cpu is not None and self._head is not None
        rows, _ = yield from self._cpu.forward(batch, keep=False)
        return loss(_Given(_in_places(target_logps(self._head, rows, batch.targets), batch)), batch)

    def _both_steps(self, loss: LossSumsOf, batch: ArrayBatch) -> Steps[tuple[Any, dict[str, mx.array]]]:
        assert self._cpu is not None and self._head is not None
        rows, tape = yield from self._cpu.forward(batch)
        found, slopes = logps_and_slopes(self._head, rows, batch.targets)
        yield found, slopes

        def sums(found: mx.array) -> Any:
            return tuple(loss(_Given(_in_places(found, batch)), batch))

        result, of_logps = mx.value_and_grad(sums)(found)
        slopes = of_logps[:, None].astype(slopes.dtype) * slopes
        gradients = yield from self._cpu.backward(tape, slopes)
        return result, gradients

    def differentiated(self, loss: LossSumsOf, batch: ArrayBatch) -> tuple[Any, dict[str, mx.array]]:
        """The loss's sums, and the gradients of the first of them by path; to be compiled."""
        parameters = self.model.trainable_parameters()

        def sums(trainable: Any) -> Any:
            self.model.update(trainable)
            return tuple(loss(self, batch))

        result, gradients = mx.value_and_grad(sums)(parameters)
        self.model.update(parameters)  # the tracers of the gradient must not stay behind
        return result, dict(tree_flatten(gradients))


def _added(parts: list[Any]) -> Any:
    return functools.reduce(lambda total, part: tree_map(mx.add, total, part), parts)


@dataclass(frozen=True, eq=False)
class _Given:
    """Log-probabilities that are known already."""

    logps: mx.array

    def token_logps(self, batch: ArrayBatch) -> mx.array:
        return self.logps


def _in_places(found: mx.array, batch: ArrayBatch) -> mx.array:
    """The targets' log-probabilities `(N,)` as `(B, T)`, with zeros elsewhere."""
    height, width = batch.mask.shape
    empty = mx.zeros(height * (width - 1), mx.float32)
    logps = empty.at[batch.places].add(found * batch.weights).reshape(height, width - 1)
    return mx.pad(logps, [(0, 0), (1, 0)])
