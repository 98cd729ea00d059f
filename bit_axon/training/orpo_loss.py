"""ORPO's preference term (Hong et al. 2024, arXiv:2403.07691) from log-probabilities, without leaving logs.

A response's probability is `p = exp(mean log p(token))`, TRL's definition. Near `p = 1` it is the
log-probability that carries the information: float32 cannot tell `1 - 1e-12` from 1, but knows -1e-12.
"""

import math
from typing import Any, Final, Literal

import mlx.nn as nn

from bit_axon.backend import mx
from bit_axon.training.losses import token_logps

OddsRatioForm = Literal["scaled_logit", "weighted"]

IGNORED_LABEL: Final = -100
_LN_2: Final = math.log(2.0)
_LARGEST: Final = -1e-15  # log(1 - p) is kept finite for p = 1 by not going above this log-probability


def log1mexp(x: mx.array) -> mx.array:
    """`log(1 - exp(x))` for `x <= 0`, exact on both sides of -ln 2 (Maechler 2012), finite at 0.

    Near zero, the branch not taken would have an infinite gradient, and `where` multiplies that by zero,
    which is not a number; so that branch gets a harmless argument there.
    """
    x = mx.minimum(x, _LARGEST)
    near = x > -_LN_2
    from_difference = mx.log(-mx.expm1(x))
    from_exponential = mx.log1p(-mx.exp(mx.where(near, -_LN_2, x)))
    return mx.where(near, from_difference, from_exponential)


def log_odds(chosen: mx.array, rejected: mx.array) -> mx.array:
    """`log[p_c / (1 - p_c)] - log[p_r / (1 - p_r)]` from log-probabilities `(P,)`."""
    return (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))


def orpo_loss(
    chosen_logps: mx.array,
    rejected_logps: mx.array,
    beta: float = 0.1,
    form: OddsRatioForm = "scaled_logit",
) -> mx.array:
    """The odds-ratio penalty of every pair, without the NLL term.

    Args:
        chosen_logps: `(P,)` mean log-probability of the chosen response's tokens.
        rejected_logps: `(P,)` of the rejected one's.
        beta: strength of the preference.
        form: `scaled_logit` is `-log sigmoid(beta * log_odds)`; `weighted` is
            `-beta * log sigmoid(log_odds)`, the paper's and TRL's.

    Returns:
        `(P,)` float32.
    """
    odds = log_odds(chosen_logps.astype(mx.float32), rejected_logps.astype(mx.float32))
    if form == "weighted":
        return -beta * nn.log_sigmoid(odds)
    return -nn.log_sigmoid(beta * odds)


def get_logps(logits: mx.array, labels: mx.array) -> mx.array:
    """Mean log-probability of the labelled tokens of each row, `(B,)` float32; 0 for a row without any.

    Args:
        logits: `(B, T, V)`; position t scores the token at t + 1.
        labels: `(B, T)` token ids, not shifted; `IGNORED_LABEL` where a token does not count.
    """
    targets = labels[:, 1:]
    counted = targets != IGNORED_LABEL
    logps = token_logps(logits[:, :-1], mx.where(counted, targets, 0))
    return mx.where(counted, logps, 0.0).sum(axis=1) / mx.maximum(counted.sum(axis=1), 1)


def compute_orpo_loss(
    model: nn.Module,
    chosen_ids: mx.array,
    chosen_mask: mx.array,
    rejected_ids: mx.array,
    rejected_mask: mx.array,
    beta: float = 0.1,
    form: OddsRatioForm = "scaled_logit",
) -> tuple[mx.array, dict[str, mx.array]]:
    """ORPO's loss of a batch of pairs: the chosen response's NLL plus `orpo_loss`, means over pairs.

    Args:
        model: maps ids `(P, T)` to logits `(P, T, V)`, or to a tuple that starts with them.
        chosen_ids: `(P, T)` prompt and chosen response.
        chosen_mask: `(P, T)`, 1 on the response's tokens.
        rejected_ids: `(P, S)` prompt and rejected response.
        rejected_mask: `(P, S)`, 1 on the response's tokens.
        beta: strength of the preference.
        form: as in `orpo_loss`.

    Returns:
        The loss, and the means `nll`, `log_odds`, `chosen_reward`, `rejected_reward`, `reward_margin`
        (rewards are `beta` times mean log-probabilities) and `reward_accuracy`. Pairs with a side
        without response tokens are left out.
    """
    sides = ((chosen_ids, chosen_mask), (rejected_ids, rejected_mask))
    chosen, rejected = (get_logps(_logits(model, ids), _labels(ids, mask)) for ids, mask in sides)
    present = ((chosen_mask[:, 1:] > 0).any(axis=1) & (rejected_mask[:, 1:] > 0).any(axis=1)).astype(
        mx.float32
    )
    # The means of an absent side are 0, where the odds are infinite: give the pair harmless ones.
    chosen, rejected = (mx.where(present > 0, side, -1.0) for side in (chosen, rejected))
    values = {
        "loss": orpo_loss(chosen, rejected, beta, form) - chosen,
        "nll": -chosen,
        "log_odds": log_odds(chosen, rejected),
        "chosen_reward": beta * chosen,
        "rejected_reward": beta * rejected,
        "reward_margin": beta * (chosen - rejected),
        "reward_accuracy": (chosen > rejected).astype(mx.float32),
    }
    pairs = mx.maximum(present.sum(), 1.0)
    means = {name: (value * present).sum() / pairs for name, value in values.items()}
    return means.pop("loss"), means


def _logits(model: nn.Module, ids: mx.array) -> mx.array:
    output: Any = model(ids)
    return output[0] if isinstance(output, tuple) else output


def _labels(ids: mx.array, mask: mx.array) -> mx.array:
    return mx.where(mask > 0, ids, IGNORED_LABEL)
