"""Cross-entropy of the next token, in chunks: logits of few tokens are in memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from configs import ceil_div
from data.text.dataset import IGNORE
from gpt.primitives import soft_cap

Total = Float[Array, ""]


def _scores(
    x: Float[Array, "tokens dim"],
    weight: Float[Array, "vocab dim"],
    targets: Int[Array, " tokens"],
    cap: float,
) -> tuple[Total, Float[Array, "tokens vocab"]]:
    """Return the summed loss, and its gradient by `x @ weight.T` (both float32)."""
    logits = jnp.matmul(x, weight.T, preferred_element_type=jnp.float32)
    logits = soft_cap(logits, cap)
    top = jnp.max(logits, axis=-1)
    log_total = top + jnp.log(jnp.sum(jnp.exp(logits - top[:, None]), axis=-1))
    rights = weight[targets].astype(jnp.float32)
    right = soft_cap(jnp.sum(x.astype(jnp.float32) * rights, axis=-1), cap)
    scored = targets != IGNORE
    loss = jnp.where(scored, log_total - right, 0.0)
    # Few operations per logit: an accelerator repeats them inside of both products that
    # read the gradient, instead of writing it.
    hit = jax.nn.one_hot(targets, weight.shape[0], dtype=jnp.float32)
    log_total = jnp.where(scored, log_total, jnp.inf)
    grad = jnp.exp(logits - log_total[:, None]) - hit
    if cap:
        grad = grad * (1.0 - jnp.square(logits / cap))
    return jnp.sum(loss), grad


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def summed_cross_entropy(
    x: Float[Array, "tokens dim"],
    weight: Float[Array, "vocab dim"],
    targets: Int[Array, " tokens"],
    chunk: int,
    cap: float = 0.0,
) -> Total:
    """Sum `-log softmax(x @ weight.T)[target]` over targets other than `IGNORE`.

    Only one chunk's logits are in memory, in float32. The gradient is computed together
    with the loss, chunk by chunk, so that nothing is computed twice.

    Args:
        x: the head's input; products are computed in its type.
        weight: the head, in a type at least as wide.
        targets: tokens, or `IGNORE`.
        chunk: maximum of tokens per chunk.
        cap: bound of the logits (`soft_cap`); 0 for none.

    Source: Hsu et al. 2024, arXiv 2410.10989 (Liger), section 3.2.
    """
    head = weight.astype(x.dtype)
    loss = lambda x, targets: (_scores(x, head, targets, cap)[0], ())
    return _over_chunks(loss, x, targets, chunk)[0]


def _forward(
    x: Float[Array, "tokens dim"],
    weight: Float[Array, "vocab dim"],
    targets: Int[Array, " tokens"],
    chunk: int,
    cap: float,
) -> tuple[Total, tuple[Array, Array]]:
    head = weight.astype(x.dtype)

    def one(x: Array, targets: Array) -> tuple[tuple[Array, Array], Array]:
        loss, logits_grad = _scores(x, head, targets, cap)
        logits_grad = logits_grad.astype(x.dtype)
        head_grad = jnp.matmul(logits_grad.T, x, preferred_element_type=jnp.float32)
        return (loss, head_grad), logits_grad @ head

    (loss, head_grad), x_grad = _over_chunks(one, x, targets, chunk)
    return loss, (x_grad, head_grad.astype(weight.dtype))


def _over_chunks(
    one: Callable[[Array, Array], tuple[Any, Any]],
    x: Float[Array, "tokens dim"],
    targets: Int[Array, " tokens"],
    chunk: int,
) -> tuple[Any, Any]:
    """Sum the first results of `one` over chunks; concatenate the second results.

    The last chunk is padded with `IGNORE`.
    """
    tokens = x.shape[0]
    chunks = ceil_div(tokens, chunk)
    size = ceil_div(tokens, chunks)
    missing = chunks * size - tokens
    x = jnp.pad(x, ((0, missing), (0, 0)))
    targets = jnp.pad(targets, (0, missing), constant_values=IGNORE)
    inputs = x.reshape(chunks, size, -1), targets.reshape(chunks, size)

    def more(sums: Any, inputs: tuple[Array, Array]) -> tuple[Any, Any]:
        terms, outs = one(*inputs)
        return jax.tree.map(jnp.add, sums, terms), outs

    shapes, _ = jax.eval_shape(one, *(a[0] for a in inputs))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    sums, outs = jax.lax.scan(more, zeros, inputs)
    join = lambda a: a.reshape(chunks * size, *a.shape[2:])[:tokens]
    return sums, jax.tree.map(join, outs)


def _backward(
    chunk: int, cap: float, grads: tuple[Array, Array], cotangent: Total
) -> tuple:
    del chunk, cap
    scaled = lambda grad: (cotangent * grad).astype(grad.dtype)
    return *map(scaled, grads), None


summed_cross_entropy.defvjp(_forward, _backward)
