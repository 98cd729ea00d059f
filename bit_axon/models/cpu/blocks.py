"""Decoder blocks of mlx-lm over a layout: same parameters, own attention, written-out backward pass.

Between the passes a block keeps its input, the raw products of its linear layers and the attention's
output; norms, rotations, gating and attention probabilities are made again. A block is taken over only
where a trial shows that it computes what is computed here; every other one is left to its own code.
"""

from dataclasses import dataclass, field
from typing import Final

import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from bit_axon.backend import mx
from bit_axon.models.cpu.attention import attention, attention_backward
from bit_axon.models.cpu.layout import Layout, Piece, lay_out
from bit_axon.models.cpu.linears import Gradients, Kept, LinearPass, linear_pass
from bit_axon.models.cpu.mlp import MlpKept, MlpPass, mlp_pass
from bit_axon.models.cpu.rotary import RotaryFamily, RotaryTable, rotated, rotated_backward
from bit_axon.models.cpu.streams import Steps, result_of

_BLOCK: Final = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
_PROJECTIONS: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
_HEAD_NORMS: Final = {"q_norm", "k_norm"}
_SETTINGS: Final = {"n_heads", "n_kv_heads", "scale"}
# Settings that change nothing but what a trial shows. A trial on a few tokens does not show a sliding
# window, a cap or a clip: a block or attention with any other setting is left to its own code.
_SHOWN: Final = _SETTINGS | {
    "head_dim",
    "hidden_size",
    "num_attention_heads",
    "args",
    "_no_grad",
    "_training",
}
_PROBE_TOKENS: Final = 10
# Relative to the block's largest change of its input.
_TOLERANCES: Final = {mx.float32: 2e-5, mx.float16: 1e-2, mx.bfloat16: 8e-2}


@dataclass(eq=False)
class Context:
    """What all blocks of a pass share: the layout, and its rotations by their family's id."""

    layout: Layout
    tables: dict[int, RotaryTable] = field(default_factory=dict)

    def table(self, family: RotaryFamily) -> RotaryTable:
        """The layout's rotations, made once per family."""
        key = id(family)
        if key not in self.tables:
            self.tables[key] = family.table(self.layout.positions, self.layout.longest)
        return self.tables[key]


@dataclass(frozen=True, eq=False)
class BlockKept:
    """What a block keeps: its input, the projections, attention's two outputs, and the MLP's part."""

    x: mx.array
    projections: tuple[Kept, Kept, Kept, Kept]
    attended: tuple[mx.array, mx.array]
    mlp: MlpKept
    rows: mx.array | None


class BlockPass:
    """A pre-norm decoder block: `h = x + attention(norm(x))`, then `h + mlp(norm(h))`.

    Args:
        block: of mlx-lm, with the layers named as in Llama.
        projections: of its attention: queries, keys, values, output.
        mlp: its second half.
        families: rotations of the blocks before; a new one is added.
    """

    def __init__(
        self,
        block: nn.Module,
        projections: tuple[LinearPass, ...],
        mlp: MlpPass,
        families: list[RotaryFamily],
    ):
        self._block, self._projections, self._mlp = block, projections, mlp
        settings = vars(block.self_attn)
        self._heads, self._key_heads = int(settings["n_heads"]), int(settings["n_kv_heads"])
        self._scale = float(settings["scale"])
        self._head_norms = set(block.self_attn) >= _HEAD_NORMS
        self._rotations = self._family(families)

    @property
    def names(self) -> frozenset[str]:
        """Of the parameters it gives gradients of."""
        return self._mlp.names.union(*(each.names for each in self._projections))

    @property
    def linears(self) -> tuple[LinearPass, ...]:
        """The layers whose passes are written out."""
        return (*self._projections, *self._mlp.linears)

    def _family(self, families: list[RotaryFamily]) -> RotaryFamily:
        norm = self._block.input_layernorm
        probe = self._projections[0].forward(mx.zeros((1, norm.weight.shape[0]), norm.weight.dtype))
        rope, dims = self._block.self_attn.rope, probe.raw.shape[-1] // self._heads
        for family in families:
            if family.agrees(rope, dims):
                return family
        families.append(RotaryFamily(rope, dims))
        return families[-1]

    def forward(
        self, x: mx.array, context: Context, rows: mx.array | None = None
    ) -> Steps[tuple[mx.array, BlockKept]]:
        """`(N, hidden)` to `(N, hidden)`; with `rows`, only these of the output are computed."""
        normed = self._block.input_layernorm(x)
        queries, keys, values = (each.forward(normed) for each in self._projections[:3])
        raws = (queries.raw, keys.raw, values.raw)
        yield raws
        attended = attention(*self._heads_of(raws, context), context.layout, self._scale)
        yield attended
        joined = _joined(attended[0])
        x_kept = x
        if rows is not None:
            joined, x_kept = joined[rows], x[rows]
        out = self._projections[3].forward(joined)
        hidden = x_kept + self._projections[3].output(out.raw)
        yield hidden
        changed, mlp = yield from self._mlp.forward(self._block.post_attention_layernorm(hidden))
        return hidden + changed, BlockKept(x, (queries, keys, values, out), attended, mlp, rows)

    def backward(
        self, kept: BlockKept, cotangent: mx.array, context: Context, gradients: Gradients
    ) -> Steps[mx.array]:
        """The input's gradient `(N, hidden)`; parameters' own are put into `gradients`."""
        rows, norm = kept.rows, self._block.post_attention_layernorm
        x = kept.x if rows is None else kept.x[rows]
        hidden = x + self._projections[3].output(kept.projections[3].raw)
        inner = yield from self._mlp.backward(norm(hidden), kept.mlp, cotangent, gradients)
        cotangent = cotangent + _norm_backward(norm, hidden, inner)
        yield cotangent
        joined = _joined(kept.attended[0])
        if rows is None:
            of_joined = self._projections[3].backward(joined, kept.projections[3], cotangent, gradients)
        else:
            part = self._projections[3].backward(joined[rows], kept.projections[3], cotangent, gradients)
            of_joined = mx.zeros(joined.shape, part.dtype).at[rows].add(part)
            cotangent = mx.zeros(kept.x.shape, cotangent.dtype).at[rows].add(cotangent)
        yield of_joined
        inner = yield from self._attention_backward(kept, of_joined, context, gradients)
        return cotangent + _norm_backward(self._block.input_layernorm, kept.x, inner)

    def _attention_backward(
        self, kept: BlockKept, cotangent: mx.array, context: Context, gradients: Gradients
    ) -> Steps[mx.array]:
        queries, keys, values, _ = kept.projections
        raws = (queries.raw, keys.raw, values.raw)
        slopes = attention_backward(
            self._heads_of(raws, context),
            context.layout,
            self._scale,
            kept.attended,
            cotangent.reshape(cotangent.shape[0], self._heads, -1).swapaxes(0, 1),
        )
        yield slopes
        flat = self._heads_backward(raws, slopes, context)
        normed = self._block.input_layernorm(kept.x)
        total: mx.array | None = None
        for each, part, slope in zip(self._projections, kept.projections, flat, strict=False):
            found = each.backward(normed, part, slope, gradients)
            yield gradients  # not the input's gradient: below the first block nobody asks for it
            total = found if total is None else total + found
        assert total is not None
        return total

    def _heads_of(
        self, raws: tuple[mx.array, mx.array, mx.array], context: Context
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Rotated queries `(H, N, D)` and keys, and values `(K, N, D)`, from raw products."""
        queries, keys, values = self._split(raws)
        if self._head_norms:
            queries = self._block.self_attn.q_norm(queries)
            keys = self._block.self_attn.k_norm(keys)
        table = context.table(self._rotations)
        return rotated(queries, table), rotated(keys, table), values

    def _split(self, raws: tuple[mx.array, mx.array, mx.array]) -> list[mx.array]:
        counts = (self._heads, self._key_heads, self._key_heads)
        outputs = [each.output(raw) for each, raw in zip(self._projections, raws, strict=False)]
        return [_by_head(output, count) for output, count in zip(outputs, counts, strict=True)]

    def _heads_backward(
        self,
        raws: tuple[mx.array, mx.array, mx.array],
        slopes: tuple[mx.array, mx.array, mx.array],
        context: Context,
    ) -> list[mx.array]:
        """Gradients of the three projections' outputs, `(N, heads * D)`."""
        table = context.table(self._rotations)
        queries, keys = (rotated_backward(slope, table) for slope in slopes[:2])
        if self._head_norms:
            before = self._split(raws)
            queries = _norm_backward(self._block.self_attn.q_norm, before[0], queries)
            keys = _norm_backward(self._block.self_attn.k_norm, before[1], keys)
        return [_joined(each) for each in (queries, keys, slopes[2])]


def _by_head(x: mx.array, heads: int) -> mx.array:
    """`(N, heads * D)` to `(heads, N, D)`, laid out that way."""
    return mx.contiguous(x.reshape(x.shape[0], heads, -1).swapaxes(0, 1))


def _joined(x: mx.array) -> mx.array:
    """`(heads, N, D)` to `(N, heads * D)`."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)


def _norm_backward(norm: nn.Module, x: mx.array, cotangent: mx.array) -> mx.array:
    _, (slope,) = mx.vjp(norm, [x], [cotangent])
    found: mx.array = slope
    return found


def block_pass(block: nn.Module, path: str, families: list[RotaryFamily]) -> BlockPass | None:
    """The block over layouts, or None where it does, or trains, something else than is written here.

    Raises:
        ValueError: or another error of the block's own code, where its arrays do not fit these passes.
    """
    if not isinstance(block, nn.Module) or set(block) != _BLOCK:
        return None
    attention = block.self_attn
    if set(attention) - _HEAD_NORMS != {*_PROJECTIONS, "rope"} or not set(vars(attention)) >= _SETTINGS:
        return None
    if _other_settings(block) or _other_settings(attention):
        return None
    projections = [linear_pass(attention[name], f"{path}.self_attn.{name}") for name in _PROJECTIONS]
    known = tuple(each for each in projections if each is not None)
    mlp = mlp_pass(block.mlp, f"{path}.mlp")
    if len(known) < len(projections) or mlp is None:
        return None
    found = BlockPass(block, known, mlp, families)
    trained = {f"{path}.{name}" for name, _ in tree_flatten(block.trainable_parameters())}
    return found if trained == found.names and _agrees(block, found) else None


def _other_settings(module: nn.Module) -> set[str]:
    return {name for name, value in vars(module).items() if value not in (None, False)} - _SHOWN


def _agrees(block: nn.Module, found: BlockPass) -> bool:
    weight = block.input_layernorm.weight
    x = mx.random.normal((_PROBE_TOKENS, weight.shape[0]), key=mx.random.key(1)).astype(weight.dtype)
    layout = lay_out([Piece(np.zeros(_PROBE_TOKENS, np.int32))])
    expected = block(x[None], "causal", None)[0]
    output, _ = result_of(found.forward(x, Context(layout)))
    error = mx.max(mx.abs(output - expected))
    return bool((error <= _TOLERANCES[weight.dtype] * mx.max(mx.abs(expected - x))).item())
