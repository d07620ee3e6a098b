"""Attention written out in products of matrices, with its gradient."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gpt.layers import drop


def _einsum(equation: str, *arrays: Array) -> Array:
    """The product in float32."""
    return jnp.einsum(equation, *arrays, preferred_element_type=jnp.float32)


def _transpose(x: Float[Array, "*batch rows cols"]) -> Float[Array, "*batch cols rows"]:
    return jnp.swapaxes(x, -1, -2)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def mix(
    causal: bool,
    rate: float,
    query: Float[Array, "*batch seq head_dim"],
    key: Float[Array, "*batch memory head_dim"],
    value: Float[Array, "*batch memory head_dim"],
    kept: Bool[Array, "*batch seq memory"] | None,
) -> Float[Array, "*batch seq head_dim"]:
    """`softmax(query key) value`, softmax in float32.

    The gradient is written out: it keeps one array of weights, in the type of `value`,
    sums over the width of a head where JAX's own sums over all weights, and has no
    product that would need the weights transposed, which a CPU would do first.

    Args:
        causal: whether position i sees only the positions 0 to i.
        rate: probability of dropping a weight.
        query: scaled already.
        key: is asked.
        value: is averaged.
        kept: which weights are not dropped; None if all are kept.

    Source: Dao et al. 2022, arXiv 2205.14135 (FlashAttention), appendix B, for the
    gradient; there the weights are computed again.
    """
    return _forward(causal, rate, query, key, value, kept)[0]


def _forward(
    causal: bool,
    rate: float,
    query: Array,
    key: Array,
    value: Array,
    kept: Array | None,
) -> tuple[Array, Any]:
    scores = _einsum("...ld,...md->...lm", query, key)
    if causal:
        scores = jnp.where(
            jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf
        )
    weights = jax.nn.softmax(scores, axis=-1)
    dropped = drop(weights, rate, kept).astype(value.dtype)
    mixed = _einsum("...lm,...md->...ld", dropped, value).astype(value.dtype)
    return mixed, (query, key, value, kept, weights.astype(value.dtype), mixed)


def _backward(
    causal: bool, rate: float, residuals: Any, grad: Array
) -> tuple[Array | None, ...]:
    del causal  # a weight of 0 stops the gradient
    query, key, value, kept, weights, mixed = residuals
    dropped = drop(weights, rate, kept)
    rise = drop(_einsum("...ld,...md->...lm", grad, value), rate, kept)
    along = jnp.sum(grad.astype(jnp.float32) * mixed, axis=-1, keepdims=True)
    scores_grad = (weights * (rise - along)).astype(value.dtype)
    query_grad = _einsum("...lm,...md->...ld", scores_grad, key)
    key_grad = _transpose(_einsum("...dl,...lm->...dm", _transpose(query), scores_grad))
    value_grad = _transpose(_einsum("...dl,...lm->...dm", _transpose(grad), dropped))
    return (
        query_grad.astype(query.dtype),
        key_grad.astype(key.dtype),
        value_grad.astype(value.dtype),
        None,
    )


mix.defvjp(_forward, _backward)
