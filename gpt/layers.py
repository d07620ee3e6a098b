"""Layers that GPT and TRM have in common, and those of a GPT.

Layers act on the last axis and take any axes in front of it. They hold float32
weights and have no `dtype` argument: the train step casts a model once, and a layer
computes in the type of its weights.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

Initializer = Callable[[PRNGKeyArray, tuple[int, ...]], Float[Array, "..."]]
"""From a key and a shape to values."""

# Standard deviation of a unit normal truncated at +-2.
_TRUNCATED_STD = 0.87962566103423978


def truncated_normal(
    key: PRNGKeyArray, shape: tuple[int, ...], std: float
) -> Float[Array, "..."]:
    """Normal values cut at two sigma, scaled so that `std` is what comes out.

    Source: `models/common.py`, `trunc_normal_init_`, and `jax.nn.initializers`.
    """
    values = jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)
    return values * (std / _TRUNCATED_STD)


def normal(std: float) -> Initializer:
    """Normal values of standard deviation `std`, not cut."""
    return lambda key, shape: std * jax.random.normal(key, shape, jnp.float32)


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


def dropout(
    x: Float[Array, " batch *axes"], rate: float, keys: Key[Array, " batch"] | None
) -> Float[Array, " batch *axes"]:
    """`x` with entries set to 0 with probability `rate`, the rest scaled up to match.

    Each example has its own key, so that what is dropped does not depend on the
    devices. No keys, no dropout.
    """
    if keys is None or rate == 0.0:
        return x
    return drop(x, rate, draw_kept(keys, rate, x.shape[1:]))


def draw_kept(
    keys: Key[Array, " batch"], rate: float, shape: tuple[int, ...]
) -> Bool[Array, " batch *axes"]:
    """Which entries are kept, for examples of this shape."""
    draw = lambda key: jax.random.bernoulli(key, 1.0 - rate, shape)
    return jax.vmap(draw)(keys)


def drop(
    x: Float[Array, "*axes"], rate: float, kept: Bool[Array, "*axes"] | None
) -> Float[Array, "*axes"]:
    """`x` with the entries that are not kept set to 0, the rest scaled up to match."""
    return x if kept is None else jnp.where(kept, x / (1.0 - rate), 0.0)


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


class Linear(eqx.Module):
    """Affine map of the last axis, `x @ weight (+ bias)`; bias zero.

    The weight is LeCun normal (cut at two sigma) unless `init` says otherwise.
    """

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"] | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = False,
        init: Initializer | None = None,
        key: PRNGKeyArray,
    ):
        shape = (inputs, outputs)
        lecun = lambda key, shape: truncated_normal(key, shape, inputs**-0.5)
        self.weight = (init or lecun)(key, shape)
        self.bias = jnp.zeros(outputs) if bias else None

    def __call__(self, x: Float[Array, "*axes inputs"]) -> Float[Array, "*axes outs"]:
        y = project(x, self.weight)
        return y if self.bias is None else y + self.bias


class Embedding(eqx.Module):
    """A vector for each token; of standard deviation `dim ** -0.5` unless told."""

    weight: Float[Array, "vocab dim"]

    def __init__(
        self,
        vocab: int,
        dim: int,
        *,
        init: Initializer | None = None,
        key: PRNGKeyArray,
    ):
        unit = lambda key, shape: truncated_normal(key, shape, dim**-0.5)
        self.weight = (init or unit)(key, (vocab, dim))

    def __call__(self, tokens: Int[Array, "*axes"]) -> Float[Array, "*axes dim"]:
        return self.weight[tokens]

    def unembed(self, x: Float[Array, "*axes dim"]) -> Float[Array, "*axes vocab"]:
        """Logits by the same weights."""
        return project(x, self.weight.T)


class LayerNorm(eqx.Module):
    """`normalize` in float32, then scaled and shifted; the shift is optional."""

    weight: Float[Array, " dim"]
    bias: Float[Array, " dim"] | None
    eps: float = eqx.field(static=True)

    def __init__(self, dim: int, *, bias: bool, eps: float = 1e-5):
        self.weight = jnp.ones(dim)
        self.bias = jnp.zeros(dim) if bias else None
        self.eps = eps

    def __call__(self, x: Float[Array, "*axes dim"]) -> Float[Array, "*axes dim"]:
        y: Array = normalize(x.astype(jnp.float32), self.eps)  # pyright: ignore
        y = y * self.weight
        return (y if self.bias is None else y + self.bias).astype(x.dtype)


class Stacked(eqx.Module):
    """Layers of one kind as one module: each array has a leading axis of layers.

    Its type tells optimizers that a vector of each layer is a vector, not a matrix.
    """

    layers: Any
    length: int = eqx.field(static=True)

    def __init__(
        self, make: Callable[[PRNGKeyArray], Any], keys: Key[Array, " layers"]
    ):
        self.layers = eqx.filter_vmap(make)(keys)
        self.length = keys.shape[0]

    def scan(
        self,
        apply: Callable[[Any, Any, Int[Array, ""]], tuple[Any, Any]],
        carry: Any,
        *,
        unroll: int = 1,
        remat: bool = False,
    ) -> tuple[Any, Any]:
        """The last carry, and what each layer gives out, stacked.

        Args:
            apply: `layer, carry, index -> carry, out`.
            carry: goes through the layers.
            unroll: layers compiled in a row.
            remat: keep only the carry of each layer for the gradient.
        """
        arrays, static = eqx.partition(self.layers, eqx.is_array)

        def body(carry: Any, inputs: tuple[Any, Int[Array, ""]]) -> tuple[Any, Any]:
            layer, index = inputs
            return apply(eqx.combine(layer, static), carry, index)

        if remat:
            body = jax.checkpoint(body, prevent_cse=False)
        inputs = (arrays, jnp.arange(self.length))
        return jax.lax.scan(body, carry, inputs, unroll=min(unroll, self.length))
