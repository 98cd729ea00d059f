"""Log-probabilities of target tokens, in float32 whatever the model computes in."""

from bit_axon.backend import mx


def token_logps(logits: mx.array, targets: mx.array) -> mx.array:
    """`log softmax(logits)` at the targets, float32.

    A 16-bit log-probability of 12 is only good to 1/16; so logits are widened before the softmax.

    Args:
        logits: `(B, T, V)`, any float dtype.
        targets: `(B, T)` integers in `0..V-1`.

    Returns:
        `(B, T)` float32, at most 0.
    """
    wide = logits.astype(mx.float32)
    chosen = mx.take_along_axis(wide, targets[..., None], axis=-1).squeeze(-1)
    return chosen - mx.logsumexp(wide, axis=-1)


def masked_sum(values: mx.array, mask: mx.array) -> mx.array:
    """Sum of `values` where `mask` is 1, float32 scalar; what is masked out may even be infinite or NaN."""
    return mx.where(mask > 0, values.astype(mx.float32), 0.0).sum()
