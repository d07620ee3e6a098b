"""Layers that GPT and TRM have in common.

Layers act on the last axis and take any axes in front of it. They hold float32
weights and have no `dtype` argument: the train step casts a model once, and a layer
computes in the type of its weights.
"""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

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


def project(
    x: Float[Array, "*axes inputs"], weight: Float[Array, "inputs outputs"]
) -> Float[Array, "*axes outputs"]:
    """`x @ weight`, with the axes of `x` made one.

    Its gradient is then a plain product too. With more axes XLA copies the cotangent
    into another order first.
    """
    rows = x.reshape(-1, x.shape[-1]) @ weight
    return rows.reshape(*x.shape[:-1], weight.shape[-1])


class Linear(eqx.Module):
    """Affine map of the last axis, `x @ weight (+ bias)`; LeCun normal, bias zero."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"] | None

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = False, key: PRNGKeyArray
    ):
        self.weight = truncated_normal(key, (inputs, outputs), inputs**-0.5)
        self.bias = jnp.zeros(outputs) if bias else None

    def __call__(self, x: Float[Array, "*axes inputs"]) -> Float[Array, "*axes outs"]:
        y = project(x, self.weight)
        return y if self.bias is None else y + self.bias


class Embedding(eqx.Module):
    """A vector for each token, of standard deviation `dim ** -0.5`."""

    weight: Float[Array, "vocab dim"]

    def __init__(self, vocab: int, dim: int, *, key: PRNGKeyArray):
        self.weight = truncated_normal(key, (vocab, dim), dim**-0.5)

    def __call__(self, tokens: Int[Array, "*axes"]) -> Float[Array, "*axes dim"]:
        return self.weight[tokens]


def attend(
    query: Float[Array, "*batch seq heads head_dim"],
    key: Float[Array, "*batch memory heads head_dim"],
    value: Float[Array, "*batch memory heads head_dim"],
    *,
    implementation: Literal["xla", "cudnn"] = "xla",
) -> Float[Array, "*batch seq heads head_dim"]:
    """Bidirectional attention, `softmax(q k / sqrt(head_dim)) v`, softmax in float32.

    `cudnn` needs an NVIDIA GPU, bfloat16 or float16, and a head width that is a
    multiple of 8.
    """
    if implementation == "cudnn":
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    scores = jnp.einsum(
        "...lhk,...mhk->...hlm", query, key, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(scores / math.sqrt(query.shape[-1]), axis=-1)
    return jnp.einsum("...hlm,...mhk->...lhk", weights.astype(value.dtype), value)
