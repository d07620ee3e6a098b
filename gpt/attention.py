"""Attention, and the one place where its kernel is chosen."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gpt.layers import draw_kept
from gpt.plain_attention import mix
from gpt.splash import Splash, splash

Kernel = Literal["xla", "cudnn", "splash"] | Splash
"""XLA; NVIDIA's (16 bits, head width a multiple of 8); the Pallas kernel for TPUs,
which is `Splash()` by name."""


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
        causal: whether position i sees only the positions 0 to i.
        kernel: what computes it. With dropout it is always XLA.
        rate: probability of dropping an attention weight.
        keys: for dropout, one for each example; none for no dropout.
    """
    if rate == 0.0:
        keys = None
    if kernel == "cudnn" and keys is None:
        return jax.nn.dot_product_attention(
            query, key, value, is_causal=causal, implementation="cudnn"
        )
    scaled = query * (1.0 / math.sqrt(query.shape[-1]))
    if kernel == "splash":
        kernel = Splash()
    if isinstance(kernel, Splash) and keys is None:
        return splash(kernel, causal, scaled, key, value)
    # Heads in front of positions, so that XLA multiplies batches of plain matrices.
    query, key, value = _heads_first(scaled), _heads_first(key), _heads_first(value)
    shape = (*query.shape[1:-1], key.shape[-2])
    kept = None if keys is None else draw_kept(keys, rate, shape)
    return _heads_first(mix(causal, rate, query, key, value, kept))


def _heads_first(
    x: Float[Array, "*batch seq heads head_dim"],
) -> Float[Array, "*batch heads seq head_dim"]:
    """Heads in front of positions; or the other way round."""
    return jnp.swapaxes(x, -2, -3)
