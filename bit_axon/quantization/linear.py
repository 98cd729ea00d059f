"""One view of `nn.Linear` and `nn.QuantizedLinear`: dimensions, weight rows, products without the bias.

Weights are `(output_dims, input_dims)`; a quantized one is packed along its columns, in uint32 words.
"""

from typing import Any, TypeAlias

import mlx.nn as nn

from bit_axon.backend import mx

AnyLinear: TypeAlias = nn.Linear | nn.QuantizedLinear
# Embeddings hold their weight in the same form, and serve as heads.
AnyWeight: TypeAlias = AnyLinear | nn.Embedding | nn.QuantizedEmbedding
_Quantized = nn.QuantizedLinear | nn.QuantizedEmbedding

_WORD_BITS = 32
_CHUNK_ELEMENTS = 1 << 22  # rows are dequantized in pieces of at most this many weights (16 MB in float32)


def linear_dims(linear: AnyLinear) -> tuple[int, int]:
    """`(input_dims, output_dims)`, for every bit width: packed words hold `bits`-wide values without gaps."""
    output_dims, columns = linear.weight.shape
    if isinstance(linear, nn.QuantizedLinear):
        columns = columns * _WORD_BITS // linear.bits
    return columns, output_dims


def weight_rows(
    linear: AnyWeight, start: int = 0, stop: int | None = None, *, after: mx.array | None = None
) -> mx.array:
    """Rows `start:stop` of the weight as floats `(rows, input_dims)`; a float base is returned as it is.

    Args:
        after: dequantize when this array is known and not before, nor share a copy made before it.
    """
    if not isinstance(linear, _Quantized):
        return linear.weight[start:stop]
    biases = linear.get("biases")
    packed = [linear.weight, linear.scales] + ([] if biases is None else [biases])
    if after is not None:
        packed = mx.depends(packed, [after])
    return _dequantized(linear, [array[start:stop] for array in packed])


def selected_rows(linear: AnyWeight, indices: mx.array) -> mx.array:
    """The weight's rows `(N, input_dims)` at `indices (N,)`, as floats."""
    if not isinstance(linear, _Quantized):
        rows: mx.array = linear.weight[indices]
        return rows
    biases = linear.get("biases")
    packed = [linear.weight, linear.scales] + ([] if biases is None else [biases])
    return _dequantized(linear, [array[indices] for array in packed])


def _dequantized(linear: nn.QuantizedLinear | nn.QuantizedEmbedding, packed: list[mx.array]) -> mx.array:
    weight, scales, *rest = packed
    return mx.dequantize(
        weight,
        scales,
        rest[0] if rest else None,
        group_size=linear.group_size,
        bits=linear.bits,
        mode=linear.mode,
    )


def weight_product(linear: AnyLinear, x: mx.array) -> mx.array:
    """`x @ W.T` for `x (..., input_dims)`, without the layer's bias; the weight gets no gradient.

    A quantized weight is multiplied by MLX's kernel on a GPU. On a CPU that kernel is tens of times
    slower than dequantizing and calling BLAS, so that is done there; the float copy is made again for
    the backward pass instead of being kept until then.
    """

    @mx.custom_function
    def product(x: mx.array) -> mx.array:
        return rows_product(linear, x)

    @product.vjp
    def product_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        return transposed_product(linear, cotangent)

    result: Any = product(x)
    return result


def apply_linear(layer: nn.Module, x: mx.array) -> mx.array:
    """`layer(x)`; a quantized layer without an adapter goes through `weight_product` too."""
    if not isinstance(layer, nn.QuantizedLinear):
        output: mx.array = layer(x)
        return output
    y = weight_product(layer, x)
    return y + layer.bias if "bias" in layer else y


def weight_products(linear: AnyLinear, x: mx.array, rows: mx.array) -> tuple[mx.array, mx.array]:
    """`x @ W.T` and `rows @ W.T` with one pass over the weight, for `rows (n, input_dims)` in x's dtype.

    No gradient reaches `rows` or the weight.
    """

    @mx.custom_function
    def product(x: mx.array) -> tuple[mx.array, mx.array]:
        joined = mx.concatenate([x.reshape(-1, x.shape[-1]), mx.stop_gradient(rows)])
        result = rows_product(linear, joined)
        return result[: -len(rows)].reshape(*x.shape[:-1], -1), result[-len(rows) :]

    @product.vjp
    def product_vjp(
        x: mx.array, cotangents: tuple[mx.array, mx.array], outputs: tuple[mx.array, mx.array]
    ) -> mx.array:
        return transposed_product(linear, cotangents[0])

    results: Any = product(x)
    return results[0], results[1]


def rows_product(linear: AnyWeight, x: mx.array, start: int = 0, stop: int | None = None) -> mx.array:
    """`x @ W[start:stop].T`, `(..., input_dims)` to `(..., rows)`; the weight gets no gradient."""
    if _has_fast_kernel(linear):
        return _quantized_product(linear, x, start, stop, transpose=True)
    return x @ weight_rows(linear, start, stop).T


def transposed_product(
    linear: AnyWeight, cotangent: mx.array, start: int = 0, stop: int | None = None
) -> mx.array:
    """`cotangent @ W[start:stop]`, `(..., rows)` to `(..., input_dims)`."""
    if _has_fast_kernel(linear):
        return _quantized_product(linear, cotangent, start, stop, transpose=False)
    return cotangent @ weight_rows(linear, start, stop, after=cotangent)


def _has_fast_kernel(linear: AnyWeight) -> bool:
    return isinstance(linear, _Quantized) and mx.default_device().type != mx.cpu


def _quantized_product(
    linear: AnyWeight, x: mx.array, start: int, stop: int | None, *, transpose: bool
) -> mx.array:
    biases = linear.get("biases")
    return mx.quantized_matmul(
        x,
        linear.weight[start:stop],
        scales=linear.scales[start:stop],
        biases=None if biases is None else biases[start:stop],
        transpose=transpose,
        group_size=linear.group_size,
        bits=linear.bits,
        mode=linear.mode,
    )


def row_squared_norms(linear: AnyLinear) -> mx.array:
    """Squared length of every weight row, `(output_dims,)` float32; few rows are floats at a time."""
    input_dims, output_dims = linear_dims(linear)
    step = max(1, _CHUNK_ELEMENTS // input_dims)
    pieces = [weight_rows(linear, start, start + step) for start in range(0, output_dims, step)]
    return mx.concatenate([piece.astype(mx.float32).square().sum(axis=1) for piece in pieces])


def float_linear(weight: mx.array, bias: mx.array | None) -> nn.Linear:
    """A plain `nn.Linear` around existing arrays."""
    output_dims, input_dims = weight.shape
    linear = nn.Linear(input_dims, output_dims, bias=False)
    linear.weight = weight
    if bias is not None:
        linear.bias = bias
    return linear
