"""Schedules, AdamATan2, clipping and averages."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import OptimConfig
from tests.golden import Golden
from train.optim import (
    atan2_positive,
    cautious_decay,
    make_optimizer,
    make_schedule,
    make_tx,
    scale_by_adam_atan2,
    split_trainable,
    update_ema,
    warmup_cosine,
)


def official_rate(
    k: int, base: float, warmup: int, total: int, min_ratio: float
) -> float:
    if k < warmup:
        return base * k / max(1, warmup)
    progress = (k - warmup) / max(1, total - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return base * (min_ratio + max(0.0, (1 - min_ratio) * cosine))


@pytest.mark.parametrize("min_ratio", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("warmup", [0, 5])
def test_schedule_is_the_official_one(min_ratio: float, warmup: int) -> None:
    schedule = warmup_cosine(3e-4, warmup, 40, min_ratio)
    for update in range(40):
        expected = official_rate(update + 1, 3e-4, warmup, 40, min_ratio)
        assert float(schedule(jnp.asarray(update))) == pytest.approx(expected, rel=1e-4)


def test_warmup_longer_than_the_run() -> None:
    schedule = warmup_cosine(1.0, 100, 10, 0.0)
    assert float(schedule(jnp.asarray(9))) == pytest.approx(0.1)


@pytest.mark.parametrize("warmup", [0, 8])
@pytest.mark.parametrize(("share", "low"), [(0.25, 0.1), (1.0, 0.0)])
def test_warmup_stable_decay(warmup: int, share: float, low: float) -> None:
    """Against its formula in plain Python."""

    def expected(count: int) -> float:
        warm = min(1.0, (count + 1) / warmup) if warmup else 1.0
        left = min(1.0, max(0.0, (40 - count) / (share * 40)))
        return 3e-4 * min(warm, low + (1 - low) * left)

    optim = OptimConfig(schedule="wsd", warmup=warmup, min_ratio=low, decay_share=share)
    schedule = make_schedule(optim, 3e-4, 40, warmup_cosine)
    for count in (0, 1, 7, 8, 20, 29, 30, 31, 39, 40, 50):
        rate = float(schedule(jnp.asarray(count)))
        assert rate == pytest.approx(expected(count), rel=1e-5, abs=1e-12)


def test_adam_atan2_against_numpy() -> None:
    rng = np.random.default_rng(0)
    lr, wd, b1, b2 = 0.01, 0.3, 0.9, 0.95
    config = OptimConfig(lr=lr, weight_decay=wd, beta1=b1, beta2=b2, warmup=0)
    optimizer = make_tx(config, lambda count: jnp.asarray(lr))
    params = jnp.asarray(rng.normal(size=20), jnp.float32)
    state = optimizer.init(params)
    theta, m, v = np.asarray(params, np.float64), np.zeros(20), np.zeros(20)
    for t in range(1, 8):
        g = rng.normal(size=20) * 10.0 ** rng.integers(-6, 3, 20)
        g[0] = 0.0
        updates, state = optimizer.update(jnp.asarray(g, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
        theta *= 1 - lr * wd
        m += (1 - b1) * (g - m)
        v += (1 - b2) * (g * g - v)
        theta -= lr / (1 - b1**t) * np.arctan2(m, np.sqrt(v) / np.sqrt(1 - b2**t))
    np.testing.assert_allclose(params, theta, rtol=1e-5, atol=1e-6)


def test_atan2_positive_is_accurate() -> None:
    rng = np.random.default_rng(0)
    scale = 10.0 ** rng.uniform(-12, 12, 100_000)
    y = (rng.normal(size=100_000) * scale).astype(np.float32)
    x = np.abs(rng.normal(size=100_000)).astype(np.float32)
    exact = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    np.testing.assert_allclose(jax.jit(atan2_positive)(y, x), exact, rtol=3e-7)


def test_atan2_positive_at_the_edges() -> None:
    inf = np.float32(np.inf)
    y = np.array([0.0, 1.0, -1.0, inf, inf, 1.0, -2.0], np.float32)
    x = np.array([0.0, 0.0, 0.0, inf, 1.0, inf, 2.0], np.float32)
    exact = np.arctan2(y, x)
    np.testing.assert_allclose(atan2_positive(jnp.array(y), jnp.array(x)), exact)
    assert np.isnan(atan2_positive(jnp.array([np.nan]), jnp.array([1.0])))


def test_adam_atan2_does_not_depend_on_the_scale_of_gradients() -> None:
    transform = scale_by_adam_atan2(0.9, 0.95)
    grads = jnp.array([1e-3, -2.0, 5.0])
    small, _ = transform.update(grads, transform.init(grads))
    large, _ = transform.update(1e6 * grads, transform.init(grads))
    np.testing.assert_allclose(small, large, rtol=1e-5)


def test_clipping_is_by_the_global_norm() -> None:
    config = OptimConfig(name="adamw", clip=1.0, weight_decay=0.0)
    optimizer = make_tx(config, lambda count: jnp.asarray(1.0))
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
    _, state = optimizer.update(grads, optimizer.init(params), params)
    moment = state[1].mu
    np.testing.assert_allclose(moment["a"][0] / 0.1, 0.6, rtol=1e-5)
    np.testing.assert_allclose(moment["b"][0] / 0.1, 0.8, rtol=1e-5)


def test_cautious_decay_only_where_signs_agree() -> None:
    """Source: arXiv 2510.12402: where `u * x >= 0`; here 1e-30 squared underflows."""
    update = jnp.array([1.0, -1.0, 2.0, -2.0, 0.0, 3.0, -1e-30, 1e-30])
    weight = jnp.array([4.0, -4.0, -4.0, 4.0, 4.0, 0.0, 1e-30, 1e-30])
    tx = cautious_decay(0.5)
    actual, _ = tx.update(update, tx.init(weight), weight)
    expected = jnp.array([3.0, -3.0, 2.0, -2.0, 2.0, 3.0, -1e-30, 1.5e-30])
    np.testing.assert_array_equal(actual, expected)


def test_an_average_that_starts_late_is_the_weights_until_then() -> None:
    config = OptimConfig(ema=0.75, ema_start=0.6)
    optimizer = make_optimizer(config, lambda count: jnp.ones(()), 10)
    old, new = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
    for updates, expected in ((5, 1.0), (6, 0.25)):
        average = optimizer.average(old, new, jnp.int32(updates))
        np.testing.assert_array_equal(average["w"], expected)


def test_buffers_are_neither_trained_nor_averaged() -> None:
    model = Golden("trm_attention").model()
    trained, buffers = split_trainable(model)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert count(buffers) == 2 * 32
    assert count(trained) + count(buffers) == count(model)
    moved = jax.tree.map(lambda leaf: leaf + 1.0, model)
    averaged = update_ema(model, moved, 0.75)
    np.testing.assert_array_equal(
        averaged.recursion.fresh_y.value, model.recursion.fresh_y.value
    )
    np.testing.assert_allclose(
        averaged.head.weight, model.head.weight + 0.25, atol=1e-6
    )
