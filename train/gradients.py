"""The gradient of one update: where grad meets `shard_map`.

Each device gathers the parameters, cast as the objective says, works on its own rows of
the batch without any communication, and reduces its gradients once.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree

from train.mesh import AXES, BATCH, REPLICATED, gather, layout, reduce
from train.objective import Metrics, Objective
from train.optim import split_trainable
from train.state import LossScale, TrainState
from train.table import TABLE, lookup


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """How a step is carried out.

    None of it changes what is computed, but for the rounding of `precision` and the
    number of `supervision_steps` that share an update.
    """

    batch_size: int
    precision: Literal["bfloat16", "float16", "float32"]
    seed: int
    accumulation: int = 1
    supervision_steps: int = 1

    @property
    def dtype(self) -> jnp.dtype:
        """The compute type."""
        return jnp.dtype(self.precision)

    def matmuls(self) -> contextlib.AbstractContextManager:
        """True float32 products where float32 is asked for (GPUs and TPUs round)."""
        if self.precision == "float32":
            return jax.default_matmul_precision("highest")
        return contextlib.nullcontext()

    def keys(self, number: Array, rows: Int[Array, " rows"]) -> Key[Array, " rows"]:
        """A key for each row of the global batch in supervision step `number`."""
        key = jax.random.fold_in(jax.random.key(self.seed), number)
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)


class Grads(eqx.Module):
    """Gradients of some rows, as sums in float32, and what comes out beside them."""

    model: PyTree
    """Of the trained leaves."""

    rows: PyTree
    """Of the looked-up rows of the table."""

    weight: Float[Array, ""]
    metrics: Metrics


def loss_and_grads(
    objective: Objective,
    model: Any,
    loss_scale: LossScale | None,
    rows: PyTree,
    carry: PyTree,
    keys: Key[Array, " batch"],
) -> tuple[Grads, PyTree]:
    """Gradients of the loss of some rows, in one go, and the next carry.

    Args:
        objective: what is to be learned.
        model: whole, and cast.
        loss_scale: what the mean loss is multiplied by while differentiating, and the
            gradients divided by; None for nothing.
        rows: that they look up in the puzzle table, or ().
        carry: refilled.
        keys: one for each row.
    """
    loss, pull, (weight, carry, metrics) = jax.vjp(
        partial(objective.loss, carry=carry, keys=keys), model, rows, has_aux=True
    )
    seed = jnp.ones_like(loss)
    if loss_scale is not None:
        seed = loss_scale.factor / jnp.maximum(weight, 1.0)
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), pull(seed))
    if loss_scale is not None:
        grads = jax.tree.map(lambda g: g / seed, grads)
    trained, _ = split_trainable(grads[0])
    return Grads(trained, grads[1], weight, metrics), carry


def accumulate_grads(
    objective: Objective,
    slices: int,
    model: Any,
    loss_scale: LossScale | None,
    rows: PyTree,
    carry: PyTree,
    keys: Key[Array, " batch"],
) -> tuple[Grads, PyTree]:
    """`loss_and_grads` of slices of the rows, one after another, to save memory.

    The last slice is smaller where their number does not divide the rows.
    """
    one = partial(loss_and_grads, objective, model, loss_scale)
    count = keys.shape[0]
    size = -(-count // slices)
    whole = count // size * size
    cut = lambda a: a[:whole].reshape(-1, size, *a.shape[1:])

    def body(total: PyTree, inputs: tuple[PyTree, PyTree, Key[Array, " batch"]]) -> Any:
        grads, carry = one(*inputs)
        total = jax.tree.map(jnp.add, total, grads.model)
        return total, (eqx.tree_at(lambda g: g.model, grads, ()), carry)

    zeros = jax.tree.map(
        lambda p: jnp.zeros(p.shape, jnp.float32), split_trainable(model)[0]
    )
    inputs = rows, carry, keys
    total, (rest, after) = jax.lax.scan(body, zeros, jax.tree.map(cut, inputs))
    join = lambda a: a.reshape(-1, *a.shape[2:])
    row_grads, after = jax.tree.map(join, (rest.rows, after))
    sums = jax.tree.map(lambda m: m.sum(0), (rest.weight, rest.metrics))
    grads = Grads(total, row_grads, *sums)
    if whole == count:
        return grads, after
    last, last_after = one(*jax.tree.map(lambda a: a[whole:], inputs))
    return add(grads, last), concatenate([after, last_after])


def concatenate(parts: Sequence[PyTree]) -> PyTree:
    """One after another."""
    return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)


def add(*parts: Grads) -> Grads:
    """Sums; of the table's rows all."""
    total = lambda trees: jax.tree.map(lambda *x: sum(x[1:], x[0]), *trees)
    return Grads(
        total([part.model for part in parts]),
        concatenate([part.rows for part in parts]),
        total([part.weight for part in parts]),
        total([part.metrics for part in parts]),
    )


def make_gradients(
    objective: Objective,
    mesh: Mesh,
    config: StepConfig,
    state: TrainState,
    *,
    refill: bool,
) -> Callable[..., tuple[PyTree, PyTree, Array, Metrics, PyTree]]:
    """The gradients of one update, by all devices.

    Args:
        objective: what is to be learned.
        mesh: the devices.
        config: slices, supervision steps, precision, seed.
        state: shapes of the state, for its layout.
        refill: whether each supervision step takes in its batch (else the carry is
            filled already).

    Returns:
        `model, table, carry, loss scale, updates, batch -> grads, (ids, row grads),
        weight, metrics, carry`: sums over all rows and supervision steps, the model's
        gradients split like its parameters.
    """
    local = config.batch_size // mesh.size
    specs = layout(state.model, mesh)
    trained_specs = layout(split_trainable(state.model)[0], mesh)
    run = loss_and_grads
    if config.accumulation > 1:
        run = partial(accumulate_grads, slices=config.accumulation)

    def device(
        model: Any,
        table: PyTree,
        carry: PyTree,
        loss_scale: LossScale | None,
        updates: Int[Array, ""],
        batch: PyTree,
    ) -> tuple[PyTree, PyTree, Array, Metrics, PyTree]:
        model = gather(objective.cast(model, config.dtype), specs)
        numbers = jax.lax.axis_index(AXES) * local + jnp.arange(local)
        parts: list[Grads] = []
        looked_up: list[PyTree] = []
        for index in range(config.supervision_steps):
            keys = config.keys(updates * config.supervision_steps + index, numbers)
            if refill:
                offered = jax.tree.map(lambda a, i=index: a[i], batch)
                carry = objective.refill(model, carry, offered)
            ids = objective.row_ids(carry)
            looked_up.append(ids)
            grads, carry = run(
                objective,
                model=model,
                loss_scale=loss_scale,
                rows=lookup(table, ids),
                carry=carry,
                keys=keys,
            )
            parts.append(grads)
        sums = add(*parts)
        scalars, separate = ravel_pytree((sums.weight, sums.metrics))
        weight, metrics = separate(jax.lax.psum(scalars, AXES))
        grads = reduce(sums.model, trained_specs)
        table_grads = concatenate(looked_up), sums.rows
        return grads, table_grads, weight, metrics, carry

    # No collective stands inside of what is differentiated, so gradients are each
    # device's own until `reduce`, and nothing needs `check_vma`.
    return jax.shard_map(
        device,
        mesh=mesh,
        in_specs=(
            specs,
            TABLE,
            BATCH,
            REPLICATED,
            REPLICATED,
            PartitionSpec(None, AXES),
        ),
        out_specs=(trained_specs, BATCH, REPLICATED, REPLICATED, BATCH),
        check_vma=False,
    )
