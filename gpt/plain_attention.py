"""Attention written out in products of matrices, with its gradient."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _matmul(
    first: Float[Array, "*batch rows inner"], second: Float[Array, "*batch inner cols"]
) -> Float[Array, "*batch rows cols"]:
    """The product in float32."""
    return jnp.matmul(first, second, preferred_element_type=jnp.float32)


def _transpose(x: Float[Array, "*batch rows cols"]) -> Float[Array, "*batch cols rows"]:
    return jnp.swapaxes(x, -1, -2)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def mix(
    causal: bool,
    query: Float[Array, "*batch seq head_dim"],
    key: Float[Array, "*batch memory head_dim"],
    value: Float[Array, "*batch memory head_dim"],
    factors: Float[Array, "*batch seq memory"] | None,
) -> Float[Array, "*batch seq head_dim"]:
    """`softmax(query key) value`, softmax in float32.

    The powers of softmax are never divided by their sum: what comes of them is, which
    has fewer entries. They are kept in the type of `value`; the gradient is written out
    for that, and in products that a CPU does without a transposed copy of them.

    Args:
        causal: whether a position sees only itself and those before it.
        query: scaled already.
        key: is asked.
        value: is averaged.
        factors: of the weights, for dropout; None for ones. No gradient goes to them.

    Source: Dao et al. 2022, arXiv 2205.14135 (FlashAttention), appendix B, for the
    gradient; there the powers are computed again.
    """
    return _forward(causal, query, key, value, factors)[0]


def _forward(
    causal: bool, query: Array, key: Array, value: Array, factors: Array | None
) -> tuple[Array, Any]:
    scores = _matmul(query, _transpose(key))
    if causal:
        scores = jnp.where(
            jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf
        )
    powers = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    powers = powers.astype(value.dtype)
    total = jnp.sum(powers, axis=-1, keepdims=True, dtype=jnp.float32)
    weights = powers if factors is None else powers * factors
    mixed = (_matmul(weights, value) * (1.0 / total)).astype(value.dtype)
    return mixed, (query, key, value, factors, powers, 1.0 / total, mixed)


def _backward(causal: bool, kept: Any, grad: Array) -> tuple[Array | None, ...]:
    del causal  # a power of 0 stops the gradient
    query, key, value, factors, powers, scale, mixed = kept
    cast = lambda x: x.astype(value.dtype)
    scaled = grad * scale
    along = jnp.sum(scaled * mixed, axis=-1, keepdims=True)
    scaled = cast(scaled)
    rise, weights = _matmul(scaled, _transpose(value)), powers
    if factors is not None:
        rise, weights = rise * factors, powers * factors
    scores_grad = cast(powers * (rise - along))
    query_grad = _matmul(scores_grad, key)
    key_grad = _transpose(_matmul(_transpose(query), scores_grad))
    value_grad = _transpose(_matmul(_transpose(scaled), weights))
    return cast(query_grad), cast(key_grad), cast(value_grad), None


mix.defvjp(_forward, _backward)
