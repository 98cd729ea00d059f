"""Elementwise kernels for a CPU, where MLX's own exponential takes ten times as long as it needs to.

MLX computes `exp`, and with it softmax and SiLU, one element at a time on a CPU (about 17 ns on x86). A
polynomial in a compiled kernel is vectorised by the C++ compiler: about 2 ns, with the same error (1e-6
relative at |x| = 20, where rounding of the argument dominates both).

`mx.compile` leaves functions alone whose arguments are being differentiated, so these are called from
passes that are written out, not from inside `mx.grad`.
"""

from typing import Any

from bit_axon.backend import mx

_LOG2_E = 1.4426950408889634
_LN_2 = 0.6931471805599453
_LOWEST, _HIGHEST = -87.0, 88.0  # exp of less is no normal float32, of more no finite one
# Added to a small float32 and taken away again, it leaves the nearest integer; while it is there, that
# integer is in the low bits.
_ROUNDER = 12582912.0  # 1.5 * 2^23
_EXPONENT_BITS = 23
# Taylor's series of exp to the sixth power: 1.5e-7 at most on [-ln(2)/2, ln(2)/2].
_COEFFICIENTS = (1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0)


def runs_on_cpu() -> bool:
    """Whether the default device is a CPU."""
    return bool(mx.default_device().type == mx.DeviceType.cpu)


def _mantissa_and_power(x: mx.array) -> tuple[mx.array, mx.array]:
    """`exp(x) = mantissa * 2^n`; the second array holds n in its low bits."""
    scaled = mx.minimum(mx.maximum(x, _LOWEST), _HIGHEST) * _LOG2_E
    rounded = scaled + _ROUNDER
    rest = (scaled - (rounded - _ROUNDER)) * _LN_2
    mantissa: Any = _COEFFICIENTS[0]
    for coefficient in _COEFFICIENTS[1:]:
        mantissa = mantissa * rest + coefficient
    return mantissa, rounded


_split = mx.compile(_mantissa_and_power, shapeless=True)
_split_negative = mx.compile(lambda x: _mantissa_and_power(-x), shapeless=True)
# Adding n to the exponent's bits multiplies by 2^n; not a number stays so.
_joined = mx.compile(lambda bits, power: bits + (power << _EXPONENT_BITS), shapeless=True)


def exponential(x: mx.array) -> mx.array:
    """`exp(x)` of any shape, without a gradient. In float32 on a CPU, below -87 it is 1.6e-38, not 0."""
    if x.dtype != mx.float32 or not runs_on_cpu():
        return mx.exp(x)
    return _power_of_two_times(*_split(x))


def _decay(x: mx.array) -> mx.array:
    """`exp(-x)`."""
    if x.dtype != mx.float32 or not runs_on_cpu():
        return mx.exp(-x)
    return _power_of_two_times(*_split_negative(x))


def _power_of_two_times(mantissa: mx.array, power: mx.array) -> mx.array:
    joined: Any = _joined(mantissa.view(mx.int32), power.view(mx.int32))
    result: mx.array = joined.view(mx.float32)
    return result


def _gated(gate: mx.array, decay: mx.array, up: mx.array) -> mx.array:
    return gate / (1.0 + decay) * up


def _gated_slopes(
    gate: mx.array, decay: mx.array, up: mx.array, cotangent: mx.array
) -> tuple[mx.array, mx.array]:
    sigmoid = 1.0 / (1.0 + decay)
    active = gate * sigmoid
    passed = cotangent * sigmoid
    return passed * up * (1.0 + gate - active), cotangent * active


_gated_product = mx.compile(_gated, shapeless=True)
_gated_gradients = mx.compile(_gated_slopes, shapeless=True)


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """`silu(gate) * up`, elementwise, any shape."""
    product: mx.array = _gated_product(gate, _decay(gate), up)
    return product


def swiglu_backward(gate: mx.array, up: mx.array, cotangent: mx.array) -> tuple[mx.array, mx.array]:
    """Gradients of gate and up."""
    slopes: tuple[mx.array, mx.array] = _gated_gradients(gate, _decay(gate), up, cotangent)
    return slopes
