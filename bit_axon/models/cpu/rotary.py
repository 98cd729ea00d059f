"""Rotary positions as tables read off a model's own module, whatever scaling it has built in."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.nn as nn

from bit_axon.backend import mx

_FIRST_LENGTH = 512
_PROBE_LENGTH = 64
_LONG_LENGTH = 1 << 15
_DEPENDS = (
    "The rotary embedding of this model depends on the length of the sequence. "
    "Set training.compile=true to run it by its own code."
)

Rope = Callable[..., mx.array]  # (x `(B, H, T, D)`, offset=int) -> `(B, H, T, D)`


@dataclass(frozen=True, eq=False)
class RotaryTable:
    """`rotated = x * cosines + swapped(x) * sines`, where `swapped` exchanges the two halves of D.

    Attributes:
        cosines: `(T, D)` float32.
        sines: `(T, D)` float32, negative in the first half.
    """

    cosines: mx.array
    sines: mx.array

    @property
    def halves(self) -> mx.array:
        """The cosines of the first half of D beside the sines of the second, `(T, D)`: they say it all."""
        split = self.cosines.shape[-1] // 2
        return mx.concatenate([self.cosines[:, :split], self.sines[:, split:]], axis=-1)

    def at(self, positions: mx.array) -> "RotaryTable":
        """Rows of the positions `(N,)`."""
        return RotaryTable(self.cosines[positions], self.sines[positions])


class RotaryFamily:
    """The rotations of all blocks whose ropes agree; their table grows with the positions asked for.

    Args:
        rope: of one of the blocks.
        dims: D, of a head.

    Raises:
        ValueError: the rotation at a position depends on how many there are (dynamic scaling).
    """

    def __init__(self, rope: Rope, dims: int):
        self._rope, self._dims = rope, dims
        self._table = rotary_table(rope, _FIRST_LENGTH, dims)
        # The plain one turns by position alone, and trying it out is a fifth of what a model's start costs.
        if type(rope) is not nn.RoPE and not self._begins(_half_turns(rope, _LONG_LENGTH, dims)):
            raise ValueError(_DEPENDS)

    def agrees(self, rope: Rope, dims: int) -> bool:
        """Whether another rope turns heads of this size in the same way."""
        if dims != self._dims:
            return False
        other, own = rotary_table(rope, _PROBE_LENGTH, dims), self._table
        return all(
            mx.array_equal(a[:_PROBE_LENGTH], b).item()
            for a, b in ((own.cosines, other.cosines), (own.sines, other.sines))
        )

    def _begins(self, longer: mx.array) -> bool:
        """Whether the cosines and sines `(T, D)` of more positions begin with those there are.

        One half of the table is enough, and half as long to compute: at load this is most of what a
        runner costs.
        """
        length = self._table.cosines.shape[0]
        return bool(mx.array_equal(self._table.halves, longer[:length]).item())

    def table(self, positions: mx.array, longest: int) -> RotaryTable:
        """Rotations at positions `(N,)` below `longest`."""
        length = self._table.cosines.shape[0]
        if longest > length:
            while length < longest:
                length *= 2
            longer = rotary_table(self._rope, length, self._dims)
            if not self._begins(longer.halves):
                raise ValueError(_DEPENDS)
            self._table = longer
        return self._table.at(positions)


def rotary_table(rope: Rope, length: int, dims: int) -> RotaryTable:
    """What `rope` does at the positions below `length`; right only where it pairs i with i + D / 2."""
    first = _half_turns(rope, length, dims)
    half = [mx.zeros((1, 1, length, dims // 2)), mx.ones((1, 1, length, dims // 2))]
    second = rope(mx.concatenate(half, axis=-1), offset=0)[0, 0]  # -sin, cos
    split = dims // 2
    cosines = mx.concatenate([first[:, :split], second[:, split:]], axis=-1)
    sines = mx.concatenate([second[:, :split], first[:, split:]], axis=-1)
    return RotaryTable(cosines, sines)


def _half_turns(rope: Rope, length: int, dims: int) -> mx.array:
    """What `rope` makes of 1 in the first half of D and 0 in the second: cosines, then sines, `(T, D)`."""
    half = [mx.ones((1, 1, length, dims // 2)), mx.zeros((1, 1, length, dims // 2))]
    return rope(mx.concatenate(half, axis=-1), offset=0)[0, 0]


def rotated(x: mx.array, table: RotaryTable) -> mx.array:
    """`x (H, N, D)` turned to the table's N positions."""
    return _turned(x, table.cosines, table.sines)


def rotated_backward(cotangent: mx.array, table: RotaryTable) -> mx.array:
    """The gradient of `x (H, N, D)`: a rotation's transpose turns back."""
    return _turned(cotangent, table.cosines, -table.sines)


def _turned(x: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    split = x.shape[-1] // 2
    swapped = mx.concatenate([x[..., split:], x[..., :split]], axis=-1)
    return (x * cosines + swapped * sines).astype(x.dtype)
