"""Functions whose gradients are written by hand, because XLA's own do more than needed.

Each says what it saves. `jax.jvp` does not go through them.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def project(
    x: Float[Array, "*axes inputs"], weight: Float[Array, "inputs outputs"]
) -> Float[Array, "*axes outputs"]:
    """`x @ weight`, with the axes of `x` made one.

    Its gradient is then a plain product too. With more axes XLA copies the cotangent
    into another order first. Inside `shard_map` both must vary over the same axes.
    """
    rows = _project_rows(x.reshape(-1, x.shape[-1]), weight)
    return rows.reshape(*x.shape[:-1], weight.shape[-1])


@jax.custom_vjp
def _project_rows(
    x: Float[Array, "rows inputs"], weight: Float[Array, "inputs outputs"]
) -> Float[Array, "rows outputs"]:
    return x @ weight


def _project_forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ weight, (x, weight)


def _project_backward(
    kept: tuple[Array, Array], grad: Float[Array, "rows outputs"]
) -> tuple[Array, Array]:
    x, weight = kept
    weight_grad = jax.lax.platform_dependent(
        x, grad, cpu=_weight_grad_on_cpu, default=_weight_grad
    )
    return (grad @ weight.T).astype(x.dtype), weight_grad.astype(weight.dtype)


def _weight_grad(
    x: Float[Array, "rows inputs"], grad: Float[Array, "rows outputs"]
) -> Float[Array, "inputs outputs"]:
    return x.T @ grad


def _weight_grad_on_cpu(
    x: Float[Array, "rows inputs"], grad: Float[Array, "rows outputs"]
) -> Float[Array, "inputs outputs"]:
    """The same, through its transpose where that is wider than high.

    Eigen takes up to twice as long for a high result as for a wide one, which pays for
    transposing it if there are many rows. The barrier keeps XLA from turning it back.
    """
    if not x.shape[0] > x.shape[1] > grad.shape[1]:
        return _weight_grad(x, grad)
    return jax.lax.optimization_barrier(_weight_grad(grad, x)).T


_project_rows.defvjp(_project_forward, _project_backward)


@jax.custom_vjp
def gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """`x` times the probability that a unit normal is below it.

    The gradient is written out: JAX's own keeps more, goes over the values more often,
    and through erfc, which takes longer.

    Source: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """
    return x * _below(x)


def _below(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    return 0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return x * _below(x), x


def _gelu_backward(x: Array, grad: Array) -> tuple[Array]:
    x = jax.lax.optimization_barrier(x)  # else the forward's erf is kept as well
    density = jnp.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))
    return (grad * (_below(x) + x * density),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def normalize(x: Float[Array, "*axes dim"], eps: float) -> Float[Array, "*axes dim"]:
    """`x` at mean 0 and variance 1 over the last axis.

    The gradient is written out, as it needs fewer passes than JAX's own.

    Source: Ba et al. 2016, arXiv 1607.06450.
    """
    return _normalize(x, eps)[0]


def _normalize(x: Array, eps: float) -> tuple[Array, tuple[Array, Array]]:
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(variance + eps)
    return x * scale, (x * scale, scale)


def _normalize_backward(
    eps: float, kept: tuple[Array, Array], grad: Array
) -> tuple[Array]:
    del eps
    y, scale = kept
    mean = jnp.mean(grad, axis=-1, keepdims=True)
    along = jnp.mean(grad * y, axis=-1, keepdims=True)
    return (scale * (grad - mean - y * along),)


normalize.defvjp(_normalize, _normalize_backward)
