"""Cross-entropy of the next token, without the logits of the whole batch in memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from configs import even_parts
from data.text.dataset import IGNORE

Total = Float[Array, ""]


def _scores(
    x: Float[Array, "tokens dim"],
    weight: Float[Array, "vocab dim"],
    targets: Int[Array, " tokens"],
) -> tuple[Total, Float[Array, "tokens vocab"]]:
    """Summed loss, and its gradient by the logits (both float32)."""
    logits = jnp.matmul(x, weight.T, preferred_element_type=jnp.float32)
    top = jnp.max(logits, axis=-1, keepdims=True)
    powers = jnp.exp(logits - top)
    total = jnp.sum(powers, axis=-1, keepdims=True)
    hit = jax.nn.one_hot(targets, weight.shape[0], dtype=jnp.float32)
    scored = (targets != IGNORE)[:, None]
    right = jnp.sum(jnp.where(hit > 0, logits, 0.0), axis=-1, keepdims=True)
    loss = jnp.where(scored, top + jnp.log(total) - right, 0.0)
    return jnp.sum(loss), jnp.where(scored, powers / total - hit, 0.0)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def summed_cross_entropy(
    x: Float[Array, "tokens dim"],
    weight: Float[Array, "vocab dim"],
    targets: Int[Array, " tokens"],
    chunk: int,
) -> Total:
    """The sum of `-log softmax(x @ weight.T)[target]` over tokens to be scored.

    Logits stand in memory for one chunk of tokens at a time, in float32. The gradient
    is computed along with the loss, chunk by chunk, so that nothing is computed twice.

    Args:
        x: what the head reads.
        weight: the head.
        targets: tokens, or `IGNORE`.
        chunk: most tokens at a time.

    Source: Hsu et al. 2024, arXiv 2410.10989 (Liger), section 3.2.
    """
    loss = lambda x, targets: (_scores(x, weight, targets)[0], ())
    return _over_chunks(loss, x, targets, chunk)[0]


def _forward(
    x: Float[Array, "tokens dim"],
    weight: Float[Array, "vocab dim"],
    targets: Int[Array, " tokens"],
    chunk: int,
) -> tuple[Total, tuple[Array, Array]]:
    def one(x: Array, targets: Array) -> tuple[tuple[Array, Array], Array]:
        loss, logits_grad = _scores(x, weight, targets)
        logits_grad = logits_grad.astype(x.dtype)
        weight_grad = jnp.matmul(logits_grad.T, x, preferred_element_type=jnp.float32)
        return (loss, weight_grad), logits_grad @ weight

    (loss, weight_grad), x_grad = _over_chunks(one, x, targets, chunk)
    return loss, (x_grad.reshape(x.shape), weight_grad)


def _over_chunks(
    one: Callable[[Array, Array], tuple[Any, Any]],
    x: Float[Array, "tokens dim"],
    targets: Int[Array, " tokens"],
    chunk: int,
) -> tuple[Any, Any]:
    """The first results of `one` summed over chunks, the second ones stacked."""
    parts = even_parts(x.shape[0], chunk)
    cut = lambda a: a.reshape(parts, -1, *a.shape[1:])
    inputs = (cut(x), cut(targets))

    def more(sums: Any, inputs: tuple[Array, Array]) -> tuple[Any, Any]:
        terms, outs = one(*inputs)
        return jax.tree.map(jnp.add, sums, terms), outs

    # The first chunk starts the sums: zeros would not vary over the devices.
    sums, first = one(*(a[0] for a in inputs))
    sums, rest = jax.lax.scan(more, sums, jax.tree.map(lambda a: a[1:], inputs))
    stack = lambda head, tail: jnp.concatenate((head[None], tail))
    return sums, jax.tree.map(stack, first, rest)


def _backward(chunk: int, grads: tuple[Array, Array], cotangent: Total) -> tuple:
    del chunk
    x_grad, weight_grad = grads
    weight_grad = (cotangent * weight_grad).astype(x_grad.dtype)
    return (cotangent * x_grad).astype(x_grad.dtype), weight_grad, None


summed_cross_entropy.defvjp(_forward, _backward)
