"""A position for each digit of each cell: a model that is equivariant to digits.

A cell of a Sudoku of size n has n positions, one for each digit. Digits share all
weights, as do rows, columns and boxes (`trm/units.py`), so no symmetry of the game has
to be learned from augmented puzzles.

Source: equivariance to symbols is that of SE-RRM, arXiv 2603.02193; this form is our
own.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gpt.layers import truncated_normal
from gpt.primitives import project

FIRST_DIGIT = 2
"""Token of the digit 1, after padding and the empty cell."""


class SymbolEmbedding(eqx.Module):
    """One of three vectors for each digit of each cell: given, excluded, or open."""

    weight: Float[Array, "3 dim"]
    symbols: int = eqx.field(static=True)

    def __init__(self, symbols: int, dim: int, *, key: PRNGKeyArray):
        self.weight = truncated_normal(key, (3, dim), dim**-0.5)
        self.symbols = symbols

    def __call__(
        self, tokens: Int[Array, "*batch seq"]
    ) -> Float[Array, "*batch positions dim"]:
        digit = tokens[..., None] - FIRST_DIGIT
        given = (digit != jnp.arange(self.symbols)).astype(jnp.int32)
        kind = jnp.where(digit < 0, 2, given)
        return self.weight[kind.reshape(*tokens.shape[:-1], -1)]


class SymbolHead(eqx.Module):
    """A logit for each digit from its position; constants for the other tokens."""

    weight: Float[Array, "dim 1"]
    others: Float[Array, " others"]
    symbols: int = eqx.field(static=True)

    def __init__(self, symbols: int, dim: int, *, key: PRNGKeyArray):
        self.weight = truncated_normal(key, (dim, 1), dim**-0.5)
        self.others = jnp.zeros(FIRST_DIGIT)
        self.symbols = symbols

    def __call__(
        self, x: Float[Array, "*batch positions dim"]
    ) -> Float[Array, "*batch seq vocab"]:
        digits = project(x, self.weight).reshape(*x.shape[:-2], -1, self.symbols)
        others = self.others.astype(x.dtype)
        others = jnp.broadcast_to(others, (*digits.shape[:-1], len(self.others)))
        return jnp.concatenate((others, digits), axis=-1)
