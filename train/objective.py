"""The interface between a model and the trainer: pure functions over a device's rows.

A model is a tree of arrays. One module of it may say of itself, by attributes,

- `trained = False`: its arrays are saved, but neither trained nor averaged;
- `stacked = True`: its arrays have a leading axis of layers, so that a vector of each
  layer is a vector to an optimizer, not a matrix;
- `matrices = {"qkv.weight": (1, 3)}`: it is a hidden layer whose array of this name has
  so many axes of inputs, and in the others so many matrices side by side (Muon updates
  each on its own).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
"""Sums over rows and steps, each with the count to divide it by."""

Loss = tuple[Float[Array, ""], tuple[Float[Array, ""], PyTree, Metrics]]
"""The summed loss; its weight, the next carry, the metrics."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a model learns from a batch, and what it carries to the next.

    The defaults are those of a model without memory and without a puzzle table. What
    `refill` gives is a filled carry: the input of the other functions.
    """

    cast: Callable[[Any, jnp.dtype], Any]
    """`model, compute type -> model` for the other functions: cast but for those leaves
    whose gradients add up, over rows or over several uses, in float32."""

    loss: Callable[..., Loss]
    """`model, rows, carry (filled), keys -> loss, (weight, carry, metrics)`. An update
    follows the gradient of the loss summed over the global batch, divided by the summed
    weight (rows, or tokens). `rows` of the table are those of `row_ids`; `keys`: one
    for each row."""

    evaluate: Callable[[Any, PyTree, PyTree], tuple[Metrics, PyTree]]
    """`model, rows, filled carry -> metrics, predictions`."""

    init_carry: Callable[[Any, int], PyTree] = lambda model, batch: ()
    """`model, batch size -> carry` before the first step."""

    refill: Callable[[Any, PyTree, PyTree], PyTree] = lambda model, carry, batch: batch
    """`model, carry, batch -> filled carry`."""

    row_ids: Callable[[PyTree], PyTree] = lambda carry: ()
    """`filled carry -> ids` of the rows of the table that it looks up. An id beyond the
    table is of a row that counts for nothing: it must not be updated."""

    done: Callable[[PyTree], Bool[Array, ""]] = lambda carry: jnp.ones((), bool)
    """`carry ->` whether no row is under way."""
