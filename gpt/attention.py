"""Attention, and the one place where its kernel is chosen."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

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
    dropped = rate > 0.0 and keys is not None
    if kernel == "cudnn" and not dropped:
        return jax.nn.dot_product_attention(
            query, key, value, is_causal=causal, implementation="cudnn"
        )
    scaled = query / math.sqrt(query.shape[-1])
    if kernel == "splash":
        kernel = Splash()
    if isinstance(kernel, Splash) and not dropped:
        return _splash(kernel, causal, scaled, key, value)
    # As `dot_product_attention` with `xla`, in an order that suits a CPU: heads in
    # front of positions first, so that XLA multiplies batches of plain matrices.
    query, key, value = _heads_first(scaled), _heads_first(key), _heads_first(value)
    scores = jnp.einsum(
        "...lk,...mk->...lm", query, key, preferred_element_type=jnp.float32
    )
    if causal:
        scores = jnp.where(
            jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf
        )
    weights = dropout(jax.nn.softmax(scores, axis=-1), rate, keys)
    return _heads_first(weights.astype(value.dtype) @ value)


def _heads_first(
    x: Float[Array, "*batch seq heads head_dim"],
) -> Float[Array, "*batch heads seq head_dim"]:
    """Heads in front of positions; or the other way round."""
    return jnp.swapaxes(x, -2, -3)


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
