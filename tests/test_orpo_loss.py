"""ORPO in both forms against float64 NumPy, values and gradients, from -1e-12 to -40."""

import math

import mlx.nn as nn
import numpy as np
import pytest

from bit_axon.backend import mx
from bit_axon.training.orpo_loss import compute_orpo_loss, get_logps, log1mexp, log_odds, orpo_loss

LOGPS = np.array([-1e-12, -1e-9, -1e-6, -1e-3, -0.1, -0.5, -math.log(2), -0.7, -1.5, -5.0, -17.0, -40.0])
CHOSEN, REJECTED = (side.ravel() for side in np.meshgrid(LOGPS, LOGPS))
FORMS = ("scaled_logit", "weighted")


def log1mexp64(x: np.ndarray) -> np.ndarray:
    return np.where(x > -math.log(2), np.log(-np.expm1(x)), np.log1p(-np.exp(x)))


def log_sigmoid64(z: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -z)


def sigmoid64(z: np.ndarray) -> np.ndarray:
    return np.exp(log_sigmoid64(z))


def reference(chosen: np.ndarray, rejected: np.ndarray, beta: float, form: str) -> dict[str, np.ndarray]:
    """Penalty and its gradients; the logit's slope in a log-probability x is 1 / (1 - e^x)."""
    odds = (chosen - rejected) - (log1mexp64(chosen) - log1mexp64(rejected))
    if form == "scaled_logit":
        loss, slope = -log_sigmoid64(beta * odds), -beta * sigmoid64(-beta * odds)
    else:
        loss, slope = -beta * log_sigmoid64(odds), -beta * sigmoid64(-odds)
    return {
        "odds": odds,
        "loss": loss,
        "dchosen": slope / -np.expm1(chosen),
        "drejected": -slope / -np.expm1(rejected),
    }


def float32_pairs() -> tuple[np.ndarray, np.ndarray]:
    """The grid as float32 sees it, so that the reference starts from the same numbers."""
    return CHOSEN.astype(np.float32).astype(np.float64), REJECTED.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients_agree_with_float64(form: str, beta: float) -> None:
    chosen, rejected = float32_pairs()
    wanted = reference(chosen, rejected, beta, form)
    c, r = mx.array(chosen, mx.float32), mx.array(rejected, mx.float32)
    loss = orpo_loss(c, r, beta, form)
    dc, dr = mx.grad(lambda c, r: orpo_loss(c, r, beta, form).sum(), argnums=(0, 1))(c, r)
    found = {"odds": log_odds(c, r), "loss": loss, "dchosen": dc, "drejected": dr}
    assert loss.shape == c.shape and loss.dtype == mx.float32
    for name, value in found.items():
        assert np.all(np.isfinite(np.asarray(value))), name
        # 1e-6: what rounding leaves of log-odds that cancel to about zero
        np.testing.assert_allclose(np.asarray(value), wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_log1mexp_is_exact_on_both_sides_of_its_branch() -> None:
    x = -np.geomspace(1e-12, 40, 400)
    x = np.concatenate([x, -math.log(2) + np.array([-1e-4, 0, 1e-4])]).astype(np.float32)
    np.testing.assert_allclose(np.asarray(log1mexp(mx.array(x))), log1mexp64(x.astype(np.float64)), rtol=1e-5)
    slope = np.asarray(mx.grad(lambda v: log1mexp(v).sum())(mx.array(x)))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(slope, np.exp(wide) / np.expm1(wide), rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_certainty_and_impossibility_stay_finite(form: str) -> None:
    extremes = mx.array([0.0, -1e-30, -1e-7, -100.0, -1e4])
    for c in extremes:
        for r in extremes:
            value, slopes = mx.value_and_grad(lambda c, r: orpo_loss(c, r, 0.1, form), argnums=(0, 1))(c, r)
            assert all(math.isfinite(v.item()) for v in (value, *slopes)), (c.item(), r.item())


def test_equal_answers_give_ln_two_and_beta_ln_two() -> None:
    logps = mx.array(LOGPS, mx.float32)
    assert mx.allclose(orpo_loss(logps, logps, 0.3, "scaled_logit"), mx.array(math.log(2)))
    assert mx.allclose(orpo_loss(logps, logps, 0.3, "weighted"), mx.array(0.3 * math.log(2)))


def test_get_logps_shifts_once_and_averages_over_labels() -> None:
    logits = mx.random.normal((3, 5, 7), key=mx.random.key(2))
    labels = mx.array([[-100, -100, 3, 4, -100], [6, 5, -100, -100, 1], [2, -100, -100, -100, -100]])
    wide = np.asarray(logits, np.float64)
    logp = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    wanted = [
        (logp[0, 1, 3] + logp[0, 2, 4]) / 2,
        (logp[1, 0, 5] + logp[1, 3, 1]) / 2,  # the first label has no position that predicts it
        0.0,
    ]
    np.testing.assert_allclose(np.asarray(get_logps(logits, labels)), wanted, rtol=1e-5, atol=1e-6)


class Bigram(nn.Module):
    """Logits that depend on the current token alone; optionally with caches, as some models answer."""

    def __init__(self, with_caches: bool = False):
        super().__init__()
        self.table = mx.random.normal((9, 9), key=mx.random.key(4))
        self._with_caches = with_caches

    def __call__(self, ids: mx.array) -> mx.array | tuple[mx.array, list[None]]:
        logits = self.table[ids]
        return (logits, [None]) if self._with_caches else logits


def pairs() -> tuple[mx.array, ...]:
    chosen, chosen_mask = [[1, 2, 3, 4, 0], [5, 6, 7, 8, 1]], [[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]]
    rejected, rejected_mask = [[1, 2, 8, 8], [5, 6, 6, 6]], [[0, 0, 1, 1], [0, 1, 1, 1]]
    return tuple(mx.array(rows) for rows in (chosen, chosen_mask, rejected, rejected_mask))


def mean_logp64(table: np.ndarray, ids: mx.array, mask: mx.array) -> np.ndarray:
    logp = table - np.log(np.exp(table).sum(-1, keepdims=True))
    rows, counted = np.asarray(ids), np.asarray(mask)[:, 1:]
    return (logp[rows[:, :-1], rows[:, 1:]] * counted).sum(1) / counted.sum(1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_caches", [False, True])
def test_compute_orpo_loss_agrees_with_float64(form: str, with_caches: bool) -> None:
    model, (chosen, chosen_mask, rejected, rejected_mask) = Bigram(with_caches), pairs()
    loss, metrics = compute_orpo_loss(model, chosen, chosen_mask, rejected, rejected_mask, 0.25, form)
    table = np.asarray(model.table, np.float64)
    c, r = mean_logp64(table, chosen, chosen_mask), mean_logp64(table, rejected, rejected_mask)
    wanted = reference(c, r, 0.25, form)
    assert loss.item() == pytest.approx(np.mean(wanted["loss"] - c), rel=1e-5)
    assert metrics["nll"].item() == pytest.approx(-c.mean(), rel=1e-5)
    assert metrics["log_odds"].item() == pytest.approx(wanted["odds"].mean(), rel=1e-5)
    assert metrics["reward_margin"].item() == pytest.approx(0.25 * (c - r).mean(), rel=1e-4)
    assert metrics["reward_accuracy"].item() == np.mean(c > r)


def test_a_model_that_copies_the_current_token_gets_no_reward_for_it() -> None:
    model = Bigram()
    model.table = 20.0 * mx.eye(9)
    loss, metrics = compute_orpo_loss(model, *pairs())
    assert metrics["nll"].item() > 15.0 and math.isfinite(loss.item())


def test_pairs_without_an_answer_do_not_count() -> None:
    model, (chosen, chosen_mask, rejected, rejected_mask) = Bigram(), pairs()
    alone = compute_orpo_loss(model, chosen[:1], chosen_mask[:1], rejected[:1], rejected_mask[:1])
    emptied = mx.array([[1], [0]]) * rejected_mask

    def total(table: mx.array) -> mx.array:
        model.table = table
        return compute_orpo_loss(model, chosen, chosen_mask, rejected, emptied)[0]

    table = model.table
    value, gradient = mx.value_and_grad(total)(table)
    assert value.item() == pytest.approx(alone[0].item(), rel=1e-6)
    assert bool(mx.isfinite(gradient).all())
