"""Attention, and the one place where its kernel is chosen."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from gpt.layers import dropout

SPLASH_BLOCK = 128
"""Positions must be a multiple of this for the splash kernel."""


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function says of the arguments."""
    return function(*arguments)


@dataclass(frozen=True)
class Splash:
    """JAX's Pallas kernel for TPUs, which never writes the scores to memory.

    Where several devices share a program, JAX keeps track of which arrays vary between
    them, and this kernel does not say so of its results. `alone` runs a function of
    what each device has without that check, and marks the results as varying. Forward
    and backward go through it one by one: differentiating what it does would add up
    gradients over devices.
    """

    alone: Callable[..., Any] = call
    """`function, *arguments -> results`, for the program it stands in."""

    interpret: bool = False
    """Whether to interpret the kernel, which any device can."""


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
        causal: whether a position sees only itself and those before it.
        kernel: what computes it. With dropout it is always XLA.
        rate: probability of dropping an attention weight.
        keys: for dropout, one for each example; none for no dropout.
    """
    if rate > 0.0 and keys is not None:
        return _attend_with_dropout(query, key, value, causal, rate, keys)
    if kernel == "splash":
        kernel = Splash()
    if isinstance(kernel, Splash):
        scaled = query / math.sqrt(query.shape[-1])
        return _splash(kernel, causal, scaled, key, value)
    if kernel == "cudnn":
        return jax.nn.dot_product_attention(
            query, key, value, is_causal=causal, implementation="cudnn"
        )
    # As `dot_product_attention` with `xla`, but in an order that suits a CPU too.
    mask = _causal_mask(query, key) if causal else None
    return _values(_weights(query, key, mask), value)


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
    # Heads in front of positions first: XLA multiplies batches of matrices faster so.
    query, key = _heads_first(query), _heads_first(key)
    scores = jnp.einsum(
        "...lk,...mk->...lm", query, key, preferred_element_type=jnp.float32
    )
    scores = scores / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1)


def _values(
    weights: Float[Array, "*batch heads seq memory"],
    value: Float[Array, "*batch memory heads head_dim"],
) -> Float[Array, "*batch seq heads head_dim"]:
    mixed = weights.astype(value.dtype) @ _heads_first(value)
    return jnp.swapaxes(mixed, -2, -3)


def _heads_first(
    x: Float[Array, "*batch seq heads head_dim"],
) -> Float[Array, "*batch heads seq head_dim"]:
    return jnp.swapaxes(x, -2, -3)


def _causal_mask(
    query: Float[Array, "*batch seq heads head_dim"],
    key: Float[Array, "*batch memory heads head_dim"],
) -> Bool[Array, "seq memory"]:
    return jnp.tril(jnp.ones((query.shape[-3], key.shape[-3]), bool))


def _attend_with_dropout(
    query: Float[Array, "rows seq heads head_dim"],
    key: Float[Array, "rows memory heads head_dim"],
    value: Float[Array, "rows memory heads head_dim"],
    causal: bool,
    rate: float,
    keys: Key[Array, " rows"],
) -> Float[Array, "rows seq heads head_dim"]:
    mask = _causal_mask(query, key) if causal else None
    return _values(dropout(_weights(query, key, mask), rate, keys), value)


def _pallas(
    options: Splash, causal: bool, query: Array, key: Array
) -> Callable[..., Any]:
    """The kernel for queries and keys like these; heads come before positions."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    shape = (query.shape[1], key.shape[1])
    mask = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    kernel = splash.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * query.shape[2]), interpret=options.interpret
    )
    return jax.vmap(kernel)


def _swap(*arrays: Array) -> tuple[Array, ...]:
    """Heads before positions, or back."""
    return tuple(jnp.swapaxes(array, 1, 2) for array in arrays)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _splash(
    options: Splash,
    causal: bool,
    query: Float[Array, "batch seq heads head_dim"],
    key: Float[Array, "batch memory heads head_dim"],
    value: Float[Array, "batch memory heads head_dim"],
) -> Float[Array, "batch seq heads head_dim"]:
    """Attention of scaled queries by the splash kernel."""
    kernel = _pallas(options, causal, query, key)
    local = lambda *qkv: _swap(kernel(*_swap(*qkv)))[0]
    return options.alone(local, query, key, value)


def _splash_forward(
    options: Splash, causal: bool, query: Array, key: Array, value: Array
) -> tuple[Array, Any]:
    kernel = _pallas(options, causal, query, key)

    def local(*qkv: Array) -> tuple[Array, Any]:
        # After the swap, which does not depend on the check, nothing is marked.
        mixed, pull = jax.vjp(kernel, *_swap(*qkv))
        return _swap(mixed)[0], pull

    return options.alone(local, query, key, value)


def _splash_backward(
    options: Splash, causal: bool, pull: Any, cotangent: Array
) -> tuple[Array, ...]:
    local = lambda pull, cotangent: _swap(*pull(*_swap(cotangent)))
    return options.alone(local, pull, cotangent)


_splash.defvjp(_splash_forward, _splash_backward)
