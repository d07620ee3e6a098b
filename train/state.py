"""The training state: one tree of arrays, saved whole in a checkpoint."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int, PyTree

from train.mesh import BATCH, REPLICATED, layout
from train.optim import split_trainable
from train.table import TABLE, is_table, make_table

INITIAL, PATIENCE = 2.0**16, 2000
"""First loss scale, and the updates without overflow before it doubles."""


class LossScale(eqx.Module):
    """Dynamic loss scaling, which keeps small gradients representable in float16.

    Source: Micikevicius et al. 2018, arXiv 1710.03740; constants of PyTorch's
    `GradScaler`.
    """

    factor: Float[Array, ""]
    good: Int[Array, ""]

    def __init__(self):
        self.factor = jnp.array(INITIAL, jnp.float32)
        self.good = jnp.zeros((), jnp.int32)

    def after(self, finite: Bool[Array, ""]) -> "LossScale":
        """Halve after an overflow; double after `PATIENCE` updates without overflow."""
        grown = self.good + 1 == PATIENCE
        factor = jnp.where(grown, 2.0 * self.factor, self.factor)
        return eqx.tree_at(
            lambda s: (s.factor, s.good),
            self,
            (
                jnp.where(finite, factor, 0.5 * self.factor),
                jnp.where(finite & ~grown, self.good + 1, 0),
            ),
        )


def all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    """Return whether every number is finite."""
    return jnp.all(jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]))


class TrainState(eqx.Module):
    """The state between two steps. Keys and batches are functions of its counters."""

    step: Int[Array, ""]
    """Batches consumed (`stream` with several supervision steps: updates)."""

    updates: Int[Array, ""]
    """Optimizer updates made: the step, unless one batch gets several (`episode`)."""

    model: Any
    """Trained, in float32."""

    ema: Any
    """Average of the model, used in evaluation; None if off."""

    table: PyTree
    """Puzzle table of a TRM (a `Table`); () for a GPT."""

    opt_state: PyTree
    """Moments of the optimizer."""

    carry: PyTree
    """ACT state of a TRM, with the global batch as leading axis; else ()."""

    scale: LossScale | None = None
    """Factor on the loss in float16; None elsewhere."""

    @property
    def evaluated(self) -> Any:
        """The weights to evaluate and to release."""
        return self.model if self.ema is None else self.ema


def state_shardings(state: TrainState, mesh: Mesh) -> PyTree[NamedSharding]:
    """Return the sharding of every leaf of a state."""

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        match path[0].name:
            case "model" | "ema" | "opt_state":
                return NamedSharding(mesh, layout(leaf, mesh))
            case "carry":
                return NamedSharding(mesh, BATCH)
            case "table" if leaf.size:  # JAX drops constraints on empty arrays
                return NamedSharding(mesh, TABLE)
            case _:
                return NamedSharding(mesh, REPLICATED)

    return jax.tree.map_with_path(sharding, state)


def new_state(
    model: Any,
    rows: PyTree,
    carry: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    ema: bool,
    scaled: bool = False,
) -> TrainState:
    """Return the state before the first step.

    Args:
        model: fresh, in float32.
        rows: of its puzzle table; () without one.
        carry: of the first step.
        optimizer: for the trained leaves.
        ema: keep averaged weights.
        scaled: scale the loss (float16).
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
        model=model,
        ema=jax.tree.map(jnp.copy, model) if ema else None,
        table=make_table(jax.tree.map(jnp.asarray, rows)),
        opt_state=optimizer.init(split_trainable(model)[0]),
        carry=carry,
        scale=LossScale() if scaled else None,
    )


def _spread(init: Callable[[], TrainState], mesh: Mesh) -> Callable[[], TrainState]:
    """Return `init` with a table padded to a multiple of the devices."""

    def spread() -> TrainState:
        state = init()
        spread_table = lambda table: table.over(mesh.size)
        table = jax.tree.map(spread_table, state.table, is_leaf=is_table)
        return dataclasses.replace(state, table=table)

    return spread


def init_state(init: Callable[[], TrainState], mesh: Mesh) -> TrainState:
    """Create the first state, each leaf directly in its layout."""
    init = _spread(init, mesh)
    shardings = state_shardings(jax.eval_shape(init), mesh)
    return jax.jit(init, out_shardings=shardings)()


def abstract_state(init: Callable[[], TrainState], mesh: Mesh) -> TrainState:
    """Return the shapes, types and shardings of a state, without values."""
    shapes = jax.eval_shape(_spread(init, mesh))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        shapes,
        state_shardings(shapes, mesh),
    )
