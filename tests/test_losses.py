"""Token log-probabilities against float64 NumPy."""

import numpy as np
import pytest

from bit_axon.backend import mx
from bit_axon.training.losses import masked_sum, token_logps


def reference_logps(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    top = wide.max(axis=-1, keepdims=True)
    norm = np.log(np.exp(wide - top).sum(axis=-1)) + top[..., 0]
    return np.take_along_axis(wide, targets[..., None], axis=-1)[..., 0] - norm


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_token_logps_are_float32_exact_for_every_logit_dtype(dtype: mx.Dtype) -> None:
    logits = (8 * mx.random.normal((2, 5, 33), key=mx.random.key(0))).astype(dtype)
    targets = mx.random.randint(0, 33, (2, 5), key=mx.random.key(1))
    found = token_logps(logits, targets)
    wanted = reference_logps(np.asarray(logits.astype(mx.float32)), np.asarray(targets))
    assert found.dtype == mx.float32 and found.shape == (2, 5)
    assert np.allclose(np.asarray(found), wanted, rtol=1e-6, atol=1e-5)


def test_token_logps_stand_large_logits_and_their_gradient_is_onehot_minus_softmax() -> None:
    logits = mx.array([[[1e4, 0.0, -1e4], [0.5, 0.25, -2.0]]])
    targets = mx.array([[0, 2]])
    gradient = np.asarray(mx.grad(lambda z: token_logps(z, targets).sum())(logits))
    wide = np.asarray(logits, np.float64)
    softmax = np.exp(wide - wide.max(-1, keepdims=True))
    softmax /= softmax.sum(-1, keepdims=True)
    assert np.allclose(gradient, np.eye(3)[np.asarray(targets)] - softmax, atol=1e-6)
    assert token_logps(logits, targets)[0, 0].item() == 0.0


def test_masked_sum_ignores_what_is_masked_out() -> None:
    values = mx.array([1.0, float("nan"), 2.5, float("-inf")])
    mask = mx.array([1.0, 0.0, 1.0, 0.0])
    assert masked_sum(values, mask).item() == 3.5
    gradient = mx.grad(lambda v: masked_sum(v * v, mask))(mx.array([1.0, 2.0, 3.0, 4.0]))
    assert np.array_equal(np.asarray(gradient), [2.0, 0.0, 6.0, 0.0])
    assert masked_sum(mx.array([1.0], mx.bfloat16), mx.array([1])).dtype == mx.float32
