"""Attention over a layout, for a CPU: no padding, no square larger than needed, few bytes kept.

As in FlashAttention (Dao et al. 2022, arXiv:2205.14135) the backward pass makes the probabilities again
from the scores and each row's log-sum-exp, so that no attention matrix lives between the passes.
"""

from collections.abc import Sequence
from itertools import pairwise

from bit_axon.backend import mx
from bit_axon.models.cpu.kernels import exponential
from bit_axon.models.cpu.layout import Layout, Range, Tile


def attention(
    queries: mx.array, keys: mx.array, values: mx.array, layout: Layout, scale: float
) -> tuple[mx.array, mx.array]:
    """Softmax attention of every query over what its tile sees.

    Args:
        queries: `(H, N, D)`.
        keys: `(K, N, D)`; H is a multiple of K, and neighbouring query heads share a key head.
        values: `(K, N, E)`.
        layout: of the N tokens.
        scale: multiplies the scores.

    Returns:
        `(H, N, E)` in the values' dtype, and each row's log-sum-exp of scores, `(K, H / K, N, 1)` float32.
    """
    heads = _Heads(queries, keys, values, scale)
    parts = [heads.forward(tile) for tile in layout.tiles]
    output = mx.concatenate([output for output, _ in parts], axis=2)
    sums = mx.concatenate([logsumexp for _, logsumexp in parts], axis=2)
    return output.reshape(queries.shape[0], -1, values.shape[-1]), sums


def attention_backward(
    inputs: tuple[mx.array, mx.array, mx.array],
    layout: Layout,
    scale: float,
    outputs: tuple[mx.array, mx.array],
    cotangent: mx.array,
) -> tuple[mx.array, mx.array, mx.array]:
    """Gradients of queries, keys and values.

    Args:
        inputs: queries, keys, values of the forward pass.
        layout: as there.
        scale: as there.
        outputs: what it returned.
        cotangent: of its first output, `(H, N, E)`.
    """
    heads = _Heads(*inputs, scale)
    weighted = mx.sum(cotangent * outputs[0], axis=-1, keepdims=True)
    return heads.backward(layout, heads.grouped(cotangent), heads.grouped(weighted), outputs[1])


class _Heads:
    """Queries as `(K, H / K, N, D)` beside keys and values `(K, N, D)`."""

    def __init__(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float):
        self._groups = keys.shape[0]
        self._queries = self.grouped(queries * scale)
        self._keys, self._values, self._scale = keys[:, None], values[:, None], scale

    def grouped(self, array: mx.array) -> mx.array:
        """`(H, N, D)` to `(K, H / K, N, D)`."""
        return array.reshape(self._groups, -1, *array.shape[1:])

    def _scores(self, tile: Tile) -> mx.array:
        queries = _rows(self._queries, tile.queries)
        scores = (queries @ _gathered(self._keys, tile.keys).swapaxes(-1, -2)).astype(mx.float32)
        return scores if tile.mask is None else scores + tile.mask

    def forward(self, tile: Tile) -> tuple[mx.array, mx.array]:
        """Outputs and log-sum-exps of a tile's queries."""
        scores = self._scores(tile)
        top = mx.max(scores, axis=-1, keepdims=True)
        weights = exponential(scores - top)
        total = mx.sum(weights, axis=-1, keepdims=True)
        values = _gathered(self._values, tile.keys)
        output = (weights.astype(values.dtype) @ values) / total.astype(values.dtype)
        return output, top + mx.log(total)

    def backward(
        self, layout: Layout, cotangent: mx.array, weighted: mx.array, sums: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Gradients of queries, keys and values, `(H, N, D)`, `(K, N, D)`, `(K, N, E)`."""
        queries = []
        keys = _RangeSums()
        values = _RangeSums()
        for tile in layout.tiles:
            found = self._tile_gradients(tile, *(_rows(a, tile.queries) for a in (cotangent, weighted, sums)))
            queries.append(found[0])
            keys.add(tile.keys, found[1])
            values.add(tile.keys, found[2])
        joined = mx.concatenate(queries, axis=2) * self._scale
        return joined.reshape(-1, *joined.shape[2:]), keys.total(), values.total()

    def _tile_gradients(
        self, tile: Tile, cotangent: mx.array, weighted: mx.array, sums: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        weights = exponential(self._scores(tile) - sums)
        keys, values = _gathered(self._keys, tile.keys), _gathered(self._values, tile.keys)
        of_values = mx.sum(weights.astype(values.dtype).swapaxes(-1, -2) @ cotangent, axis=1)
        slopes = (cotangent @ values.swapaxes(-1, -2)).astype(mx.float32) - weighted
        of_scores = (weights * slopes).astype(keys.dtype)
        of_keys = mx.sum(of_scores.swapaxes(-1, -2) @ _rows(self._queries, tile.queries), axis=1)
        return of_scores @ keys, of_keys, of_values


def _rows(array: mx.array, span: Range) -> mx.array:
    return array[:, :, span[0] : span[1]]


def _gathered(array: mx.array, spans: Sequence[Range]) -> mx.array:
    parts = [_rows(array, span) for span in spans]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)


class _RangeSums:
    """Adds up arrays that belong to overlapping ranges of rows."""

    def __init__(self) -> None:
        self._parts: dict[Range, list[mx.array]] = {}

    def add(self, spans: Sequence[Range], array: mx.array) -> None:
        """`array (K, sum of the spans, D)`: the spans' rows behind each other."""
        at = 0
        for start, stop in spans:
            self._parts.setdefault((start, stop), []).append(array[:, at : at + stop - start])
            at += stop - start

    def total(self) -> mx.array:
        """`(K, N, D)`."""
        cuts = sorted({edge for span in self._parts for edge in span})
        return mx.concatenate([self._between(*pair) for pair in pairwise(cuts)], axis=1)

    def _between(self, low: int, high: int) -> mx.array:
        found = [
            part[:, low - start : high - start]
            for (start, stop), parts in self._parts.items()
            if start <= low and high <= stop
            for part in parts
        ]
        total = found[0]
        for part in found[1:]:
            total = total + part
        return total
