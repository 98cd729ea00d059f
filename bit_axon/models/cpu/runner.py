"""A batch as one row without padding, run through written-out passes.

Nothing is computed for padding, prompts of preference pairs run once, attention is as small as the
sequences, and the last block goes on with supervised positions alone. Shapes differ from batch to
batch, which costs nothing, as nothing is compiled for a shape.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from bit_axon.backend import mx
from bit_axon.models.cpu.blocks import BlockKept, BlockPass, Context, block_pass
from bit_axon.models.cpu.layout import Layout, Piece, lay_out
from bit_axon.models.cpu.linears import Gradients
from bit_axon.models.cpu.pieces import pieces_of
from bit_axon.models.cpu.rotary import RotaryFamily
from bit_axon.models.cpu.streams import Steps, Streams, result_of
from bit_axon.models.inputs import ArrayBatch
from bit_axon.models.padded import SegmentCache
from bit_axon.training.batches import Batch

_PROBE_LENGTHS: Final = (9, 5)
_TOLERANCES: Final = {mx.float32: 1e-4, mx.float16: 2e-2, mx.bfloat16: 1.5e-1}  # of the largest value
_OTHER_CODE: Final = (TypeError, ValueError, AttributeError, KeyError, IndexError, NotImplementedError)


class CpuInputs(NamedTuple):
    """One row of pieces, and the `(N,)` rows of it that precede the targets."""

    layout: Layout
    rows: mx.array


@dataclass(frozen=True, eq=False)
class Tape:
    """What a forward pass keeps for the backward pass."""

    context: Context
    blocks: list[BlockKept]
    last: mx.array  # `(N, H)`, before the final norm


class CpuRunner:
    """The passes of a whole body: embedding, blocks, norm.

    Args:
        body: of a model.
        blocks: its blocks.
    """

    def __init__(self, body: nn.Module, blocks: list[BlockPass]):
        self._body, self._blocks = body, blocks
        trained = (number for number, block in enumerate(blocks) if block.names)
        self._first = next(trained, len(blocks))  # below it, nothing is kept or differentiated

    def __len__(self) -> int:
        return len(self._blocks)

    def place(self, batch: Batch) -> ArrayBatch:
        """Pieces of all rows, prompts of groups shared, each up to its last target."""
        found = pieces_of(batch)
        layout = lay_out(found.pieces)
        rows = found.hidden_rows(layout.starts)
        places = found.places(batch.tokens.shape[1] - 1)
        return ArrayBatch(
            mask=mx.array(batch.mask),
            targets=mx.array(batch.tokens[:, 1:].reshape(-1)[places]),
            places=mx.array(places),
            weights=mx.ones(len(places)),
            inputs=CpuInputs(layout, mx.array(rows)),
        )

    def refresh(self, streams: Streams) -> None:
        """Renews what changes with an update alone, once for all parts of a batch."""
        streams.each([layer.refresh for block in self._blocks for layer in block.linears])

    def forward(self, arrays: ArrayBatch, *, keep: bool = True) -> Steps[tuple[mx.array, Tape]]:
        """`(N, H)`, the hidden state before each target, and what `backward` needs."""
        inputs: CpuInputs = arrays.inputs
        context = Context(inputs.layout)
        hidden = self._body.embed_tokens(inputs.layout.tokens)
        kept = []
        for number, block in enumerate(self._blocks):
            is_last = number == len(self._blocks) - 1
            hidden, part = yield from block.forward(hidden, context, inputs.rows if is_last else None)
            if keep and number >= self._first:
                kept.append(part)
        return self._body.norm(hidden), Tape(context, kept, hidden)

    def backward(self, tape: Tape, cotangent: mx.array) -> Steps[Gradients]:
        """Gradients of all trained parameters from the cotangent `(N, H)` of the rows; yields by block."""
        gradients: Gradients = {}
        _, (slope,) = mx.vjp(self._body.norm, [tape.last], [cotangent])
        for block in reversed(self._blocks[self._first :]):
            found: Gradients = {}
            slope = yield from block.backward(tape.blocks.pop(), slope, tape.context, found)
            yield found
            gradients.update(found)
        return gradients


def cpu_runner(model: nn.Module, body: nn.Module, vocab_size: int) -> CpuRunner | None:
    """A runner for the body, or None where a block or the whole is not what it should be."""
    if not all(name in body for name in ("embed_tokens", "layers", "norm")):
        return None
    try:
        return _runner(model, body, vocab_size)
    except _OTHER_CODE:
        return None  # the body takes, has or makes something else than is written here


def _runner(model: nn.Module, body: nn.Module, vocab_size: int) -> CpuRunner | None:
    families: list[RotaryFamily] = []
    blocks = [block_pass(block, f"model.layers.{i}", families) for i, block in enumerate(body.layers)]
    known = [block for block in blocks if block is not None]
    if len(known) < len(blocks):
        return None
    handled = frozenset[str]().union(*(block.names for block in known))
    if handled != {name for name, _ in tree_flatten(model.trainable_parameters())}:
        return None
    runner = CpuRunner(body, known)
    return runner if _agrees(body, runner, vocab_size) else None


def _agrees(body: nn.Module, runner: CpuRunner, vocab_size: int) -> bool:
    """Whether two sequences in one layout get the hidden states that they get alone."""
    sizes = _PROBE_LENGTHS
    tokens = mx.random.randint(0, vocab_size, (sum(sizes),), key=mx.random.key(2))
    parts = [tokens[: sizes[0]], tokens[sizes[0] :]]
    expected = mx.concatenate([body(part[None])[0] for part in parts])
    body(parts[0][None], cache=[SegmentCache(mx.ones((1, sizes[0])))] * len(runner))  # refuses windows
    layout = lay_out([Piece(np.array(part)) for part in parts])
    nothing = mx.zeros((0,))
    inputs = CpuInputs(layout, mx.arange(sum(sizes)))
    found, _ = result_of(runner.forward(ArrayBatch(nothing, nothing, nothing, nothing, inputs)))
    error, size = mx.max(mx.abs(found - expected)), mx.max(mx.abs(expected))
    return bool((error <= _TOLERANCES[expected.dtype] * size).item())
