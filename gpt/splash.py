"""Attention by JAX's Pallas kernel for TPUs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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


def _pallas(
    options: Splash, causal: bool, query: Array, key: Array
) -> Callable[..., Any]:
    """The kernel for queries and keys like these; heads come before positions."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    shape = (query.shape[1], key.shape[1])
    mask = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    kernel = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * query.shape[2]), interpret=options.interpret
    )
    return jax.vmap(kernel)


def _swap(*arrays: Array) -> tuple[Array, ...]:
    """Heads before positions, or back."""
    return tuple(jnp.swapaxes(array, 1, 2) for array in arrays)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def splash(
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


splash.defvjp(_splash_forward, _splash_backward)
