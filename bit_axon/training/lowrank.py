"""What LoRA and DoRA share: the two factors, their product, and the base layer they wrap.

The update of a weight `W (output_dims, input_dims)` is `scale * (A B).T` with
`A (input_dims, rank)` and `B (rank, output_dims)`.
"""

import math
from typing import Self

import mlx.nn as nn

from bit_axon.backend import mx
from bit_axon.errors import BitAxonError, problem
from bit_axon.quantization.linear import AnyLinear, linear_dims, weight_rows


def initial_factors(
    input_dims: int, output_dims: int, rank: int, key: mx.array | None = None
) -> tuple[mx.array, mx.array]:
    """`A` uniform in ±1/sqrt(input_dims) and `B` zero, float32, so that the update starts at zero.

    Args:
        key: makes the draw independent of everything drawn before; None = MLX's global state.
    """
    bound = 1.0 / math.sqrt(input_dims)
    return mx.random.uniform(-bound, bound, (input_dims, rank), key=key), mx.zeros((rank, output_dims))


def add_low_rank(y: mx.array, x: mx.array, a: mx.array, b: mx.array, scale: float) -> mx.array:
    """`y + scale * (x A) B`, computed in x's dtype; y is `(..., output_dims)`, x `(..., input_dims)`.

    The factors stay float32 masters: casting them, not x, keeps 16-bit activations 16-bit.
    """
    narrow = scale * (x @ a.astype(x.dtype))
    return mx.addmm(y, narrow, b.astype(x.dtype))


def adapted_weight(linear: AnyLinear, a: mx.array, b: mx.array, scale: float) -> mx.array:
    """`W + scale * (A B).T` in float32, `(output_dims, input_dims)`; dequantizes a quantized `W`."""
    return weight_rows(linear).astype(mx.float32) + scale * (b.T @ a.T).astype(mx.float32)


def fused_dtype(linear: AnyLinear, dequantize: bool) -> mx.Dtype:
    """Dtype of a fused weight: the base's own, or the one a quantized base dequantizes to.

    Raises:
        BitAxonError: the base is quantized and `dequantize` is False.
    """
    if isinstance(linear, nn.QuantizedLinear) and not dequantize:
        raise BitAxonError(
            problem(
                "a float base to fuse the adapter into",
                f"a base quantized to {linear.bits} bits",
                "Call fuse(dequantize=True) to get a float layer.",
            )
        )
    return weight_rows(linear, 0, 1).dtype


class LowRankLinear(nn.Module):
    """A frozen linear layer with a trained low-rank update beside it.

    Args:
        input_dims: size of the input's last axis.
        output_dims: size of the output's last axis.
        r: rank of the update.
        dropout: probability of dropping an input of the low-rank path, in training mode only.
        scale: multiplies the update.
        bias: whether the base layer has a bias.

    Attributes:
        linear: the frozen base, `nn.Linear` or `nn.QuantizedLinear`.
        lora_a: `A (input_dims, r)` float32, uniform in ±1/sqrt(input_dims).
        lora_b: `B (r, output_dims)` float32, zeros.
    """

    def __init__(
        self,
        input_dims: int,
        output_dims: int,
        r: int = 8,
        dropout: float = 0.0,
        scale: float = 20.0,
        bias: bool = False,
    ):
        super().__init__()
        self._wrap(nn.Linear(input_dims, output_dims, bias=bias), r, dropout, scale, None)

    @classmethod
    def from_base(
        cls,
        linear: AnyLinear,
        r: int = 8,
        dropout: float = 0.0,
        scale: float = 20.0,
        key: mx.array | None = None,
    ) -> Self:
        """Wraps an existing layer, which is frozen and otherwise left as it is.

        Args:
            key: random key of the initial `A`; None draws from MLX's global state.
        """
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._wrap(linear, r, dropout, scale, key)
        return layer

    def _wrap(self, linear: AnyLinear, r: int, dropout: float, scale: float, key: mx.array | None) -> None:
        self.linear = linear
        self.linear.freeze()
        self.dropout = nn.Dropout(p=dropout)
        self.scale = scale
        self.lora_a, self.lora_b = initial_factors(*linear_dims(linear), r, key)
        self._begin()
        self.train(linear.training)

    def _begin(self) -> None:
        """What a kind of update has besides its factors."""
