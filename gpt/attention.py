"""Attention, and the one place where its kernel is chosen."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from gpt.layers import dropout

Kernel = Literal["xla", "cudnn", "splash"]
"""XLA; NVIDIA's (16 bits, head width a multiple of 8); the Pallas kernel for TPUs."""

SPLASH_BLOCK = 128
"""Positions must be a multiple of this for the splash kernel."""


def attend(
    query: Float[Array, "*batch seq heads head_dim"],
    key: Float[Array, "*batch memory heads head_dim"],
    value: Float[Array, "*batch memory heads head_dim"],
    *,
    causal: bool = False,
    kernel: Kernel = "xla",
    rate: float = 0.0,
    keys: Key[Array, " rows"] | None = None,
) -> Float[Array, "*batch seq heads head_dim"]:
    """`softmax(q k / sqrt(head_dim)) v`, softmax in float32.

    Args:
        query: asks.
        key: is asked.
        value: is averaged.
        causal: whether a position sees only itself and those before it.
        kernel: what computes it. With dropout it is always XLA.
        rate: probability of dropping an attention weight.
        keys: for dropout, one for each example; none for no dropout.
    """
    if rate > 0.0 and keys is not None:
        return _attend_with_dropout(query, key, value, causal, rate, keys)
    if kernel == "splash":
        return _splash(query, key, value, causal)
    return jax.nn.dot_product_attention(
        query, key, value, is_causal=causal, implementation=kernel
    )


def attend_masked(
    query: Float[Array, "*batch seq heads head_dim"],
    key: Float[Array, "*batch memory heads head_dim"],
    value: Float[Array, "*batch memory heads head_dim"],
    mask: Bool[Array, "seq memory"],
) -> Float[Array, "*batch seq heads head_dim"]:
    """Attention to the part of the memory that a mask shows, by XLA."""
    return _values(_weights(query, key, mask), value)


def _weights(
    query: Float[Array, "*batch seq heads head_dim"],
    key: Float[Array, "*batch memory heads head_dim"],
    mask: Bool[Array, "seq memory"] | None,
) -> Float[Array, "*batch heads seq memory"]:
    scores = jnp.einsum(
        "...lhk,...mhk->...hlm", query, key, preferred_element_type=jnp.float32
    )
    scores = scores / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1)


def _values(
    weights: Float[Array, "*batch heads seq memory"],
    value: Float[Array, "*batch memory heads head_dim"],
) -> Float[Array, "*batch seq heads head_dim"]:
    return jnp.einsum("...hlm,...mhk->...lhk", weights.astype(value.dtype), value)


def _attend_with_dropout(
    query: Float[Array, "rows seq heads head_dim"],
    key: Float[Array, "rows memory heads head_dim"],
    value: Float[Array, "rows memory heads head_dim"],
    causal: bool,
    rate: float,
    keys: Key[Array, " rows"],
) -> Float[Array, "rows seq heads head_dim"]:
    shape = (query.shape[-3], key.shape[-3])
    mask = jnp.tril(jnp.ones(shape, bool)) if causal else None
    return _values(dropout(_weights(query, key, mask), rate, keys), value)


def _splash(
    query: Float[Array, "batch seq heads head_dim"],
    key: Float[Array, "batch memory heads head_dim"],
    value: Float[Array, "batch memory heads head_dim"],
    causal: bool,
) -> Float[Array, "batch seq heads head_dim"]:
    """The splash kernel, which never writes the scores to memory."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    seq, heads, head_dim = query.shape[1:]
    shape = (seq, key.shape[1])
    mask = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    kernel = splash.make_splash_mha_single_device(masks.MultiHeadMask([mask] * heads))
    heads_first = lambda x: jnp.swapaxes(x, 1, 2)
    scaled = heads_first(query) / math.sqrt(head_dim)
    return heads_first(jax.vmap(kernel)(scaled, heads_first(key), heads_first(value)))
