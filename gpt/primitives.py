"""Arithmetic of the layers, with explicit types and custom gradients.

Custom gradients need less work than JAX's own; each docstring gives the reason. They do
not support `jax.jvp`.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def project(
    x: Float[Array, "*axes inputs"], weight: Float[Array, "inputs outputs"]
) -> Float[Array, "*axes outputs"]:
    """Return `x @ weight` in the narrower of the two types.

    All axes of `x` but the last are merged, so that the gradient is a plain product.
    With more axes, XLA transposes a copy of the cotangent first.

    A 16-bit model can keep its stream, or weights with several uses, in float32: their
    gradients are then summed in float32, as under PyTorch's autocast.
    """
    rows = x.reshape(-1, x.shape[-1]).astype(narrower(x, weight))
    return _project_rows(rows, weight).reshape(*x.shape[:-1], weight.shape[-1])


def project_columns(
    x: Float[Array, " inputs *axes"], weight: Float[Array, "inputs outputs"]
) -> Float[Array, " outputs *axes"]:
    """Apply `project` over the first axis, without a transposition of `x`."""
    columns = x.reshape(x.shape[0], -1).astype(narrower(x, weight))
    return _project_columns(columns, weight).reshape(weight.shape[-1], *x.shape[1:])


def add_vector(
    x: Float[Array, "*axes dim"], vector: Float[Array, "*rest dim"]
) -> Float[Array, "*axes dim"]:
    """Return `x + vector` in the type of `x`; sum the vector's gradient in float32."""
    wide = jnp.broadcast_to(vector.astype(jnp.float32), x.shape)
    return x + wide.astype(x.dtype)


def narrower(*arrays: Array) -> jnp.dtype:
    """Return the type with the fewest bits."""
    return min((array.dtype for array in arrays), key=lambda dtype: dtype.itemsize)


@jax.custom_vjp
def _project_rows(
    x: Float[Array, "rows inputs"], weight: Float[Array, "inputs outputs"]
) -> Float[Array, "rows outputs"]:
    return x @ weight.astype(x.dtype)


def _project_rows_forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return _project_rows(x, weight), (x, weight)


def _project_rows_backward(
    kept: tuple[Array, Array], grad: Float[Array, "rows outputs"]
) -> tuple[Array, Array]:
    x, weight = kept
    weight_grad = jax.lax.platform_dependent(
        x,
        grad,
        cpu=partial(_weight_grad_on_cpu, weight.dtype),
        default=partial(_weight_grad, weight.dtype),
    )
    return grad @ weight.astype(grad.dtype).T, weight_grad


def _weight_grad(
    dtype: jnp.dtype,
    x: Float[Array, "rows inputs"],
    grad: Float[Array, "rows outputs"],
) -> Float[Array, "inputs outputs"]:
    return jnp.matmul(x.T, grad, preferred_element_type=dtype)


def _weight_grad_on_cpu(
    dtype: jnp.dtype,
    x: Float[Array, "rows inputs"],
    grad: Float[Array, "rows outputs"],
) -> Float[Array, "inputs outputs"]:
    """Compute `_weight_grad` through its transpose if that is wider than high.

    Eigen needs up to twice the time for a high result; with many rows, this outweighs
    the transposition. The barrier keeps XLA from undoing it.
    """
    if not x.shape[0] > x.shape[1] > grad.shape[1]:
        return _weight_grad(dtype, x, grad)
    return jax.lax.optimization_barrier(_weight_grad(dtype, grad, x)).T


_project_rows.defvjp(_project_rows_forward, _project_rows_backward)


@jax.custom_vjp
def _project_columns(
    x: Float[Array, "inputs columns"], weight: Float[Array, "inputs outputs"]
) -> Float[Array, "outputs columns"]:
    return weight.astype(x.dtype).T @ x


def _project_columns_forward(
    x: Array, weight: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _project_columns(x, weight), (x, weight)


def _project_columns_backward(
    kept: tuple[Array, Array], grad: Float[Array, "outputs columns"]
) -> tuple[Array, Array]:
    x, weight = kept
    weight_grad = jnp.matmul(x, grad.T, preferred_element_type=weight.dtype)
    return weight.astype(grad.dtype) @ grad, weight_grad


_project_columns.defvjp(_project_columns_forward, _project_columns_backward)


@jax.custom_vjp
def gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Return `x` times the normal distribution function at `x`, computed in float32.

    JAX's own gradient keeps more, needs more passes, and uses the slower erfc.

    Source: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """
    wide = x.astype(jnp.float32)
    return (wide * _below(wide)).astype(x.dtype)


def _below(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    return 0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return gelu(x), x


def _gelu_backward(x: Array, grad: Array) -> tuple[Array]:
    barred = jax.lax.optimization_barrier(x)  # else the forward's erf is kept too
    wide = barred.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * (1.0 / math.sqrt(2.0 * math.pi))
    slope = _below(wide) + wide * density
    return ((grad * slope).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def gelu_tanh(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Approximate `gelu` with a hyperbolic tangent, in float32."""
    return jax.nn.gelu(x.astype(jnp.float32)).astype(x.dtype)


def relu_squared(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Square the positive part. Source: So et al. 2021, arXiv 2109.08668."""
    return jnp.square(jax.nn.relu(x))


def swiglu(x: Float[Array, "*axes"], axis: int = -1) -> Float[Array, "*hidden"]:
    """Return `silu(gate) * up` with `gate, up = split(x)`, in float32.

    Source: Shazeer 2020, arXiv 2002.05202.
    """
    gate, up = gate_and_up(x, axis)
    return (jax.nn.silu(gate) * up).astype(x.dtype)


def gate_and_up(
    x: Float[Array, "*axes"], axis: int
) -> tuple[Float[Array, "*hidden"], Float[Array, "*hidden"]]:
    """Split `x` along `axis`; return the halves in float32."""
    # Split first: of all of `x` in float32, a TPU writes an array.
    gate, up = jnp.split(x, 2, axis=axis)
    return gate.astype(jnp.float32), up.astype(jnp.float32)


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu2": relu_squared,
    "swiglu": swiglu,
}
"""Activations of feed-forward layers by the name of the setting."""


def soft_cap(x: Float[Array, "*axes"], cap: float) -> Float[Array, "*axes"]:
    """Bound `x` smoothly by `cap`; a no-op if `cap` is 0.

    Source: Gemma 2, arXiv 2408.00118, section 2.
    """
    return cap * jnp.tanh(x / cap) if cap else x


def project_gated(
    x: Float[Array, "*axes inputs"], weight: Float[Array, "inputs both"]
) -> Float[Array, "*axes hidden"]:
    """Return `silu(gate) * up` with `gate, up = split(x @ weight)`, as in SwiGLU.

    The product is computed like `project`, the rest in float32. The gradient keeps only
    `x` and the product, in their type. It multiplies by each half of the weights
    separately: the gradients of gate and up, the largest arrays of a network, are never
    concatenated.

    Source: Shazeer 2020, arXiv 2002.05202.
    """
    rows = x.reshape(-1, x.shape[-1]).astype(narrower(x, weight))
    hidden: Any = _project_gated(False, rows, weight)
    return hidden.reshape(*x.shape[:-1], -1)


def project_gated_columns(
    x: Float[Array, " inputs *axes"], weight: Float[Array, "inputs both"]
) -> Float[Array, " hidden *axes"]:
    """Apply `project_gated` over the first axis, without a transposition of `x`."""
    columns = x.reshape(x.shape[0], -1).astype(narrower(x, weight))
    hidden: Any = _project_gated(True, columns, weight)
    return hidden.reshape(-1, *x.shape[1:])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _project_gated(columns: bool, x: Array, weight: Array) -> Array:
    return _project_gated_forward(columns, x, weight)[0]


def _project_gated_forward(
    columns: bool, x: Array, weight: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    both = _project_columns(x, weight) if columns else _project_rows(x, weight)
    return swiglu(both, 0 if columns else 1), (x, weight, both)


def _project_gated_backward(
    columns: bool, kept: tuple[Array, Array, Array], grad: Array
) -> tuple[Array, Array]:
    x, weight, both = kept
    both = jax.lax.optimization_barrier(both)  # else the sigmoid is kept too
    gate, up = gate_and_up(both, 0 if columns else 1)
    grad = grad.astype(jnp.float32)
    share = jax.nn.sigmoid(gate)
    swish = gate * share
    grads = (grad * up * (share + swish * (1.0 - share)), grad * swish)
    halves = jnp.split(weight.astype(x.dtype), 2, axis=1)
    wide = partial(jnp.matmul, preferred_element_type=jnp.float32)
    x_grads, weight_grads = [], []
    for grad, half in zip((g.astype(x.dtype) for g in grads), halves, strict=True):
        if columns:
            x_grads.append(wide(half, grad))
            weight_grads.append(_weight_grad(weight.dtype, x.T, grad.T))
        else:
            x_grads.append(wide(grad, half.T))
            weight_grads.append(_weight_grad(weight.dtype, x, grad))
    return (x_grads[0] + x_grads[1]).astype(x.dtype), jnp.concatenate(
        weight_grads, axis=1
    )


_project_gated.defvjp(_project_gated_forward, _project_gated_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def normalize(x: Float[Array, "*axes dim"], eps: float) -> Float[Array, "*axes dim"]:
    """Scale `x` to mean 0 and variance 1 over the last axis.

    The gradient needs fewer passes than JAX's own.

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
