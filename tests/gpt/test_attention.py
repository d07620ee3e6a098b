"""Attention of each kernel against plain implementations."""

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt.attention import attend, cudnn, pick_kernel, splash
from gpt.layers import dropout
from tests.tiny import assert_close

Arrays = tuple[jax.Array, ...]

# Compiled: one operation after another takes long to start.
compiled = jax.jit(attend, static_argnames=("causal", "kernel", "rate"))


def oracle(
    query: Any, key: Any, value: Any, visible: Any = True
) -> np.ndarray[Any, Any]:
    """`softmax(q k / sqrt(head_dim)) v` in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    scores = np.einsum("blhk,bmhk->bhlm", query, key) / math.sqrt(query.shape[-1])
    weights = np.where(visible, np.exp(scores), 0.0)
    weights = weights / weights.sum(-1, keepdims=True)
    return np.einsum("bhlm,bmhk->blhk", weights, value)


def draw(
    batch: int, seq: int, memory: int, heads: int = 2, head_dim: int = 8
) -> Arrays:
    keys = jax.random.split(jax.random.key(seq), 3)
    shapes = [(batch, n, heads, head_dim) for n in (seq, memory, memory)]
    pairs = zip(keys, shapes, strict=True)
    return tuple(jax.random.normal(key, shape) for key, shape in pairs)


def lower_triangle(seq: int) -> np.ndarray[Any, Any]:
    return np.tril(np.ones((seq, seq), bool))


@pytest.mark.parametrize("memory", [5, 9])
def test_all_of_the_memory(memory: int) -> None:
    qkv = draw(3, 5, memory)
    np.testing.assert_allclose(compiled(*qkv), oracle(*qkv), atol=1e-6)


def test_causal() -> None:
    qkv = draw(3, 7, 7)
    expected = oracle(*qkv, lower_triangle(7))
    np.testing.assert_allclose(compiled(*qkv, causal=True), expected, atol=1e-6)


def test_more_axes_in_front() -> None:
    qkv = draw(6, 5, 5)
    folded = (x.reshape(2, 3, *x.shape[1:]) for x in qkv)
    found = compiled(*folded, causal=True).reshape(qkv[0].shape)
    np.testing.assert_allclose(found, compiled(*qkv, causal=True), atol=1e-6)


def test_large_scores_in_16_bits() -> None:
    """The softmax does not overflow, and its weights sum to one."""
    query, key, value = (x.astype(jnp.bfloat16) for x in draw(2, 5, 5))
    mixed = compiled(100 * query, 100 * key, jnp.ones_like(value), causal=True)
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(mixed, np.float32), 1.0)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_no_position_depends_on_later_ones(rate: float) -> None:
    keys = jax.random.split(jax.random.key(0), 1) if rate else None
    first = lambda *qkv: attend(*qkv, causal=True, rate=rate, keys=keys)[0].sum((1, 2))
    slopes = jax.jit(jax.jacobian(first, argnums=(0, 1, 2)))(*draw(1, 6, 6))
    for number, slope in enumerate(slopes):
        depends = np.abs(slope[:, 0]).max((2, 3)) > 0
        expected = np.eye(6, dtype=bool) if number == 0 else lower_triangle(6)
        assert not (depends & ~expected).any()
        # The first position has one weight, which is 1; dropout hides others.
        assert rate or (depends == expected)[1:].all()


@pytest.mark.parametrize("causal", [False, True])
def test_dropout_of_weights_is_right_on_average(causal: bool) -> None:
    qkv = draw(1, 4, 4)
    plain = compiled(*qkv, causal=causal)[0]
    draws = 20000
    many = (jnp.broadcast_to(x, (draws, *x.shape[1:])) for x in qkv)
    keys = jax.random.split(jax.random.key(1), draws)
    mixed = compiled(*many, causal=causal, rate=0.3, keys=keys)
    error = np.asarray(mixed.std(0)) / math.sqrt(draws)
    assert (error > 0).all()
    assert (np.abs(mixed.mean(0) - plain) < 6 * error).all()


def test_dropout_of_a_row_is_its_keys_alone() -> None:
    qkv, keys = draw(4, 3, 3), jax.random.split(jax.random.key(2), 4)
    together = compiled(*qkv, rate=0.5, keys=keys)
    last = compiled(*(x[3:] for x in qkv), rate=0.5, keys=keys[3:])
    np.testing.assert_allclose(together[3:], last, atol=1e-6)
    assert not np.allclose(together, compiled(*qkv), atol=1e-3)


# -- the custom gradient ---------------------------------------------------------------


def plain(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    causal: bool,
    rate: float = 0.0,
    keys: Any = None,
) -> jax.Array:
    """Attention without a custom gradient."""
    scores = jnp.einsum("blhk,bmhk->bhlm", query, key) / math.sqrt(query.shape[-1])
    if causal:
        scores = jnp.where(lower_triangle(scores.shape[-1]), scores, -jnp.inf)
    weights = dropout(jax.nn.softmax(scores, axis=-1), rate, keys)
    return jnp.einsum("bhlm,bmhk->blhk", weights, value)


@pytest.mark.parametrize(
    ("memory", "causal", "rate"), [(9, True, 0.0), (9, True, 0.4), (5, False, 0.4)]
)
def test_gradients(memory: int, causal: bool, rate: float) -> None:
    """With and without dropout, equal to gradients of `plain`."""
    keys = jax.random.split(jax.random.key(3), 3)
    options = {"causal": causal, "rate": rate, "keys": keys}

    def pull(function: Any) -> Any:
        score = lambda *qkv: jnp.sum(jnp.sin(3 * function(*qkv, **options)))
        return jax.jit(jax.value_and_grad(score, (0, 1, 2)))(*draw(3, 9, memory))

    assert_close(pull(attend), pull(plain), 1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_gradients_in_16_bits(dtype: Any, rate: float) -> None:
    """Close to float32, in the type of the values; small gradients do not vanish."""
    keys = jax.random.split(jax.random.key(4), 2)
    mixing = partial(attend, causal=True, rate=rate, keys=keys)

    def pull(qkv: Arrays) -> Arrays:
        score = lambda *qkv: jnp.sum(1e-2 * jnp.sin(mixing(*qkv)).astype(jnp.float32))
        return jax.jit(jax.grad(score, (0, 1, 2)))(*qkv)

    half = tuple(x.astype(dtype) for x in draw(2, 300, 300))
    found = pull(half)
    assert all(x.dtype == dtype for x in found)
    expected = pull(tuple(x.astype(jnp.float32) for x in half))
    for rough, exact in zip(found, expected, strict=True):
        error = np.linalg.norm(np.float32(rough) - exact)
        assert error < 0.02 * np.linalg.norm(exact)


# -- other kernels, on a CPU -----------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("seq", "head_dim"), [(7, 8), (8, 6), (7, 6)])
def test_padding_for_cudnn_changes_nothing(
    seq: int, head_dim: int, causal: bool
) -> None:
    """Values and gradients are equal."""
    padded = partial(cudnn, implementation="xla")
    pull = lambda function: pull_all(partial(function, causal=causal), seq, head_dim)
    assert_close(pull(padded), pull(attend), 1e-4)


@pytest.mark.parametrize("kernel", [attend, partial(cudnn, implementation="xla")])
def test_padding_is_not_seen(kernel: Any) -> None:
    """It has no effect on values and gradients."""
    mix = partial(kernel, causal=False)
    query, key, value = draw(2, 6, 6)
    real = lambda x: x[:, :5]
    score = lambda mixed: jnp.sum(jnp.sin(3 * real(mixed)))
    found = jax.value_and_grad(lambda *qkv: score(mix(*qkv, seen=5)), (0, 1, 2))
    expected = jax.value_and_grad(
        lambda *qkv: score(attend(*map(real, qkv))), (0, 1, 2)
    )
    assert_close(found(query, key, value), expected(query, key, value), 1e-4)


@pytest.mark.parametrize(("seq", "causal"), [(128, False), (128, True), (130, False)])
def test_splash(seq: int, causal: bool) -> None:
    """The Pallas kernel for TPUs, interpreted, and its gradients."""

    def interpreted(query: jax.Array, *key_value: jax.Array) -> jax.Array:
        scaled = query / math.sqrt(query.shape[-1])
        return splash(scaled, *key_value, causal=causal, interpret=True)

    expected = pull_all(partial(attend, causal=causal), seq, 64)
    assert_close(pull_all(interpreted, seq, 64), expected, 1e-5)


@pytest.mark.parametrize(
    ("length", "kernel"),
    [(97, "tiles"), (128, "splash"), (500, "tiles"), (916, "splash")],
)
def test_the_kernel_for_a_tpu(length: int, kernel: str) -> None:
    """Short sequences are not padded to whole blocks."""
    sizes = {"precision": "bfloat16", "head_dim": 64}
    tpu = SimpleNamespace(platform="tpu")
    assert pick_kernel("auto", length=length, device=tpu, **sizes) == kernel


def pull_all(function: Any, seq: int, head_dim: int) -> Any:
    """A sum over a function of the attention, and its gradients."""
    score = lambda *qkv: jnp.sum(jnp.sin(3 * function(*qkv)))
    case = draw(2, seq, seq, head_dim=head_dim)
    return jax.jit(jax.value_and_grad(score, (0, 1, 2)))(*case)
