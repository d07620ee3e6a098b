"""The gradient of one update: where grad meets `shard_map`.

Each device gathers the parameters, cast as the experiment says, works on its own rows
of the batch without any communication, and reduces its gradients once.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree

from gpt.metrics import Metrics
from train.experiment import AbstractExperiment, StepConfig
from train.mesh import AXES, BATCH, REPLICATED, gather, layout, reduce
from train.optim import split_trainable
from train.state import LossScale, TrainState
from train.table import TABLE, lookup


class Grads(eqx.Module):
    """Gradients of some rows, as sums in float32, and what comes out beside them."""

    model: PyTree
    """Of the trained leaves."""

    rows: PyTree
    """Of the looked-up rows of the table."""

    weight: Float[Array, ""]
    metrics: Metrics


def loss_and_grads(
    experiment: AbstractExperiment,
    model: Any,
    loss_scale: LossScale | None,
    rows: PyTree,
    carry: PyTree,
    keys: Key[Array, " batch"],
) -> tuple[Grads, PyTree]:
    """Gradients of the loss of some rows, in one go, and the next carry.

    Args:
        experiment: what is to be learned.
        model: whole, and cast.
        loss_scale: what the mean loss is multiplied by while differentiating, and the
            gradients divided by; None for nothing.
        rows: that they look up in the puzzle table, or ().
        carry: refilled.
        keys: one for each row.
    """
    loss, pull, (weight, carry, metrics) = jax.vjp(
        partial(experiment.loss, carry=carry, keys=keys), model, rows, has_aux=True
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
    experiment: AbstractExperiment,
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
    one = partial(loss_and_grads, experiment, model, loss_scale)
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
    experiment: AbstractExperiment,
    mesh: Mesh,
    config: StepConfig,
    state: TrainState,
    *,
    refill: bool,
) -> Callable[..., tuple[PyTree, PyTree, Array, Metrics, PyTree]]:
    """The gradients of one update, by all devices.

    Args:
        experiment: what is to be learned.
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
        model = gather(experiment.cast(model, config.dtype), specs)
        numbers = jax.lax.axis_index(AXES) * local + jnp.arange(local)
        parts: list[Grads] = []
        looked_up: list[PyTree] = []
        for index in range(config.supervision_steps):
            keys = config.keys(updates * config.supervision_steps + index, numbers)
            if refill:
                offered = jax.tree.map(lambda a, i=index: a[i], batch)
                carry = experiment.refill(model, carry, offered)
            ids = experiment.row_ids(carry)
            looked_up.append(ids)
            grads, carry = run(
                experiment,
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
