import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ACTConfig
from data.puzzles.dataset import IGNORE
from trm.loss import log_softmax, log_stablemax, metrics, puzzle_loss
from trm.model import Prediction

STABLEMAX, SOFTMAX = ACTConfig(), ACTConfig(loss="softmax")


def stablemax_in_double(x: np.ndarray) -> np.ndarray:
    s = np.where(x < 0, 1 / (1 - np.minimum(x, 0)), x + 1)
    return np.log(s / s.sum(-1, keepdims=True))


def test_log_stablemax_against_double_precision() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 11), scale=20)
    logits[0] = 1.0  # where the plain form has no gradient
    logits[1] = 0.0
    ours = log_stablemax(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(ours, stablemax_in_double(logits), rtol=1e-5, atol=1e-6)


def test_log_stablemax_has_a_gradient_everywhere() -> None:
    logits = jnp.array([1.0, 0.0, -1.0, 1e4, -1e4, 1e-8])
    jacobian = jax.jacobian(log_stablemax)(logits)
    assert jnp.isfinite(jacobian).all()
    for i in range(3):
        step = np.zeros(6)
        step[i] = 1e-6
        x = np.asarray(logits, np.float64)
        slope = (stablemax_in_double(x + step) - stablemax_in_double(x - step)) / 2e-6
        np.testing.assert_allclose(jacobian[:, i], slope, rtol=1e-3, atol=1e-5)


def test_losses_are_float32_whatever_the_logits() -> None:
    logits = jnp.ones(4, jnp.bfloat16)
    assert log_stablemax(logits).dtype == log_softmax(logits).dtype == jnp.float32


def prediction(q_halt: float, q_continue: float = 0.0) -> Prediction:
    logits = jnp.array([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
    return Prediction(logits, jnp.asarray(q_halt), jnp.asarray(q_continue))


def test_puzzle_loss_by_hand() -> None:
    labels = jnp.array([0, 1, IGNORE])
    loss, parts, scores = puzzle_loss(prediction(-1.0), labels, None, STABLEMAX)
    nll = -(np.log(3 / 5) + np.log(4 / 6)) / 2
    q_loss = np.log1p(np.exp(1.0))  # solved, but q_halt says no
    assert float(parts["lm_loss"]) == pytest.approx(nll, rel=1e-6)
    assert float(parts["q_halt_loss"]) == pytest.approx(q_loss, rel=1e-6)
    assert float(loss) == pytest.approx(nll + 0.5 * q_loss, rel=1e-6)
    assert float(scores["accuracy"]) == 1.0
    assert bool(scores["exact_accuracy"])
    assert not bool(scores["q_halt_accuracy"])


def test_one_wrong_cell_is_not_solved() -> None:
    labels = jnp.array([0, 1, 0])
    _, _, scores = puzzle_loss(prediction(-1.0), labels, None, SOFTMAX)
    assert float(scores["accuracy"]) == pytest.approx(2 / 3)
    assert not bool(scores["exact_accuracy"])
    assert bool(scores["q_halt_accuracy"])


def test_the_continue_loss_counts_half() -> None:
    labels = jnp.array([0, 1, 2])
    target = jnp.asarray(0.25)
    plain, _, _ = puzzle_loss(prediction(1.0, 0.5), labels, None, SOFTMAX)
    loss, parts, _ = puzzle_loss(prediction(1.0, 0.5), labels, target, SOFTMAX)
    expected = np.log1p(np.exp(0.5)) - 0.25 * 0.5
    assert float(parts["q_continue_loss"]) == pytest.approx(expected, rel=1e-6)
    assert float(loss - plain) == pytest.approx(0.5 * expected, rel=1e-4)


def test_smoothed_labels_and_the_weight_of_q_by_hand() -> None:
    labels = jnp.array([0, 1, IGNORE])
    config = ACTConfig(loss="softmax", label_smoothing=0.3, q_weight=0.05)
    loss, parts, _ = puzzle_loss(prediction(-1.0), labels, None, config)
    logits = np.array([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    smoothed = -(target * logs).sum(1).mean()
    assert float(parts["lm_loss"]) == pytest.approx(smoothed, rel=1e-5)
    expected = smoothed + 0.05 * np.log1p(np.exp(1.0))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_a_puzzle_without_labels_has_no_loss() -> None:
    labels = jnp.full(3, IGNORE)
    _, parts, scores = puzzle_loss(prediction(1.0), labels, None, STABLEMAX)
    assert float(parts["lm_loss"]) == 0.0
    assert float(scores["accuracy"]) == 0.0


def test_metrics_count_what_they_sum() -> None:
    values = jnp.array([1.0, 2.0, 4.0])
    summed = metrics(
        {"loss": values},
        {"score": values},
        active=jnp.array([True, True, False]),
        scored=jnp.array([False, True, False]),
    )
    assert jax.tree.map(float, summed) == {"loss": (3.0, 2.0), "score": (2.0, 1.0)}
