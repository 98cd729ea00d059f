"""One view of `nn.Linear` and `nn.QuantizedLinear`: dimensions, weight rows, products without the bias.

Weights are `(output_dims, input_dims)`; a quantized one is packed along its columns, in uint32 words.
"""

from typing import TypeAlias

import mlx.nn as nn

from bit_axon.backend import mx

AnyLinear: TypeAlias = nn.Linear | nn.QuantizedLinear

_WORD_BITS = 32
_CHUNK_ELEMENTS = 1 << 22  # rows are dequantized in pieces of at most this many weights (16 MB in float32)


def linear_dims(linear: AnyLinear) -> tuple[int, int]:
    """`(input_dims, output_dims)`, for every bit width: packed words hold `bits`-wide values without gaps."""
    output_dims, columns = linear.weight.shape
    if isinstance(linear, nn.QuantizedLinear):
        columns = columns * _WORD_BITS // linear.bits
    return columns, output_dims


def weight_rows(linear: AnyLinear, start: int = 0, stop: int | None = None) -> mx.array:
    """Rows `start:stop` of the weight as floats `(rows, input_dims)`; a float base is returned as it is."""
    if not isinstance(linear, nn.QuantizedLinear):
        return linear.weight[start:stop]
    biases = linear.get("biases")
    return mx.dequantize(
        linear.weight[start:stop],
        linear.scales[start:stop],
        None if biases is None else biases[start:stop],
        group_size=linear.group_size,
        bits=linear.bits,
        mode=linear.mode,
    )


def weight_products(linear: AnyLinear, *inputs: mx.array) -> tuple[mx.array, ...]:
    """`x @ W.T` for each input `(..., input_dims)`, without the layer's bias.

    A quantized weight is multiplied by MLX's kernel on a GPU. On a CPU that kernel is tens of times
    slower than dequantizing once and calling BLAS, so that is done there; the float copy is made again
    for the backward pass instead of being kept until then.
    """
    if not isinstance(linear, nn.QuantizedLinear):
        return tuple(x @ linear.weight.T for x in inputs)
    if mx.default_device().type == mx.cpu:
        return tuple(mx.checkpoint(lambda *xs: _dequantized_products(linear, *xs))(*inputs))
    return tuple(_quantized_product(linear, x) for x in inputs)


def _dequantized_products(linear: nn.QuantizedLinear, *inputs: mx.array) -> list[mx.array]:
    weight = weight_rows(linear)
    return [x @ weight.astype(x.dtype).T for x in inputs]


def _quantized_product(linear: nn.QuantizedLinear, x: mx.array) -> mx.array:
    return mx.quantized_matmul(
        x,
        linear.weight,
        scales=linear.scales,
        biases=linear.get("biases"),
        transpose=True,
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
