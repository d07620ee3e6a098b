"""Layers that GPT and TRM share.

Layers act on the last axis; any axes can precede it. Their weights are float32. A
product is computed in the narrower type of input and weights, everything else in the
type of the input.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from gpt.primitives import add_vector, normalize, project

Initializer = Callable[[PRNGKeyArray, tuple[int, ...]], Float[Array, "..."]]
"""Returns values from a key and a shape."""

# Standard deviation of a unit normal truncated at +-2.
_TRUNCATED_STD = 0.87962566103423978


def truncated_normal(
    key: PRNGKeyArray, shape: tuple[int, ...], std: float
) -> Float[Array, "..."]:
    """Draw normal values cut at two sigma, scaled to standard deviation `std`.

    Source: `models/common.py`, `trunc_normal_init_`, and `jax.nn.initializers`.
    """
    values = jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)
    return values * (std / _TRUNCATED_STD)


def zeros(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Return zeros, as an initializer."""
    return jnp.zeros(shape)


def normal(std: float) -> Initializer:
    """Return an initializer with normal values of standard deviation `std`."""
    return lambda key, shape: std * jax.random.normal(key, shape, jnp.float32)


def dropout(
    x: Float[Array, " batch *axes"], rate: float, keys: Key[Array, " batch"] | None
) -> Float[Array, " batch *axes"]:
    """Set entries of `x` to 0 with probability `rate` and scale up the others.

    One key per example makes the result independent of the devices. None: no dropout.
    """
    if keys is None or rate == 0.0:
        return x
    return drop(x, rate, dropout_mask(keys, rate, x.shape[1:]))


def dropout_mask(
    keys: Key[Array, " batch"], rate: float, shape: tuple[int, ...]
) -> Bool[Array, " batch *axes"]:
    """Draw masks of the entries to keep, for examples of this shape."""
    draw = lambda key: jax.random.bernoulli(key, 1.0 - rate, shape)
    return jax.vmap(draw)(keys)


def drop(
    x: Float[Array, "*axes"], rate: float, mask: Bool[Array, "*axes"] | None
) -> Float[Array, "*axes"]:
    """Set entries outside of `mask` to 0 and scale up the others."""
    return x if mask is None else jnp.where(mask, x / (1.0 - rate), 0.0)


def rms_norm(
    x: Float[Array, "*axes"],
    eps: float,
    axis: int | tuple[int, ...] = -1,
    count: int | None = None,
) -> Float[Array, "*axes"]:
    """Divide `x` by its root mean square along `axis`, in float32.

    The mean is over `count` numbers if given; the others must be zero.

    Source: TRM's `models/layers.py`, `rms_norm`.
    """
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide), axis=axis, keepdims=True)
    if count is not None:
        mean_square = jnp.sum(jnp.square(wide), axis=axis, keepdims=True) / count
    return (wide * jax.lax.rsqrt(mean_square + eps)).astype(x.dtype)


def rotate(
    x: Float[Array, "*batch seq heads head_dim"],
    theta: float,
    first: int | Int[Array, ""] = 0,
) -> Float[Array, "*batch seq heads head_dim"]:
    """Apply rotary positions (RoPE, arXiv 2104.09864) in float32.

    `theta` is the base of the frequencies; positions are counted from `first`.

    Source: TRM's `models/layers.py`, `RotaryEmbedding` and `apply_rotary_pos_emb`.
    """
    return turn(x, theta, first + np.arange(x.shape[-3], dtype=np.float32))


def turn(
    x: Float[Array, "*batch seq heads head_dim"],
    theta: float,
    positions: Float[np.ndarray | Array, " seq"],
) -> Float[Array, "*batch seq heads head_dim"]:
    """Rotate each position of `x` by its number; see `rotate`."""
    half = x.shape[-1] // 2
    frequencies = 1.0 / theta ** (np.arange(half, dtype=np.float32) / np.float32(half))
    return rotate_pairs(x, positions[:, None, None] * frequencies)


def rotate_pairs(
    x: Float[Array, "*batch seq heads head_dim"],
    angles: Float[np.ndarray | Array, "*rows seq 1 half"],
) -> Float[Array, "*batch seq heads head_dim"]:
    """Rotate each pair of numbers, one in each half of a head, in float32."""
    xp = np if isinstance(angles, np.ndarray) else jnp  # constants where they can be
    cos, sin = jnp.asarray(xp.cos(angles)), jnp.asarray(xp.sin(angles))
    first_half, second_half = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (
        first_half * cos - second_half * sin,
        second_half * cos + first_half * sin,
    )
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class Linear(eqx.Module):
    """Affine map of the last axis, `x @ weight (+ bias)`.

    Initial weight: `init`, by default LeCun normal cut at two sigma. Initial bias: 0.
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
        return y if self.bias is None else add_vector(y, self.bias)


class Embedding(eqx.Module):
    """A vector per token; standard deviation `dim ** -0.5` without `init`."""

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
        """Return logits computed with the same weights."""
        return project(x, self.weight.T)


class LayerNorm(eqx.Module):
    """`normalize` in float32, then scale, and shift if `bias`."""

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


class RMSNorm(eqx.Module):
    """`rms_norm` of the last axis."""

    eps: float = eqx.field(static=True, default=1e-5)

    def __call__(self, x: Float[Array, "*axes dim"]) -> Float[Array, "*axes dim"]:
        return rms_norm(x, self.eps)


class Stacked(eqx.Module):
    """Equal layers as one module: each array has a leading axis of layers.

    `stacked` marks it for optimizers: a vector per layer is not a matrix.
    """

    layers: Any
    length: int = eqx.field(static=True)
    stacked: ClassVar[bool] = True

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
        order: tuple[int, ...] | None = None,
        unroll: int = 1,
        remat: bool = False,
    ) -> tuple[Any, Any]:
        """Apply the layers in order; return the last carry and the stacked outputs.

        `apply` maps `layer, carry, index` to `carry, output`. One iteration has
        `unroll` layers. With `remat`, the gradient recomputes all but the carries.
        `order` has the numbers of the layers, which may repeat (`index` never does);
        None: each once.
        """
        arrays, static = eqx.partition(self.layers, eqx.is_array)
        each = tuple(range(self.length))
        order = order or each
        if order != each:
            arrays = jax.tree.map(lambda a: a[jnp.array(order)], arrays)

        def body(carry: Any, inputs: tuple[Any, Int[Array, ""]]) -> tuple[Any, Any]:
            layer, index = inputs
            return apply(eqx.combine(layer, static), carry, index)

        if remat:
            body = jax.checkpoint(body, prevent_cse=False)
        inputs = (arrays, jnp.arange(len(order)))
        return jax.lax.scan(body, carry, inputs, unroll=min(unroll, len(order)))


class Buffer(eqx.Module):
    """An array that is saved with the model, but neither trained nor averaged."""

    value: Float[Array, "..."]
    trained: ClassVar[bool] = False

    def __call__(self) -> Float[Array, "..."]:
        return jax.lax.stop_gradient(self.value)
