"""The gradient of one update: `grad` inside `shard_map`.

Each device gathers the parameters, cast by the experiment, works on its own rows of the
batch without communication, and reduces its gradients once.
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

from configs import ceil_div
from gpt.metrics import Metrics
from train.experiment import AbstractExperiment, StepConfig
from train.mesh import AXES, BATCH, REPLICATED, gather, layout, reduce
from train.optim import split_trainable
from train.state import LossScale, TrainState
from train.table import TABLE, lookup


class Grads(eqx.Module):
    """Gradients summed over rows in float32, with their weight and metrics."""

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
    """Return the gradients of the loss of a batch's rows, and the next carry.

    Args:
        experiment: defines the loss.
        model: whole, and cast.
        loss_scale: factor on the mean loss while differentiating, divided out of the
            gradients; None for no factor.
        rows: looked up in the puzzle table, or ().
        carry: filled.
        keys: one per row.
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
    """Apply `loss_and_grads` to slices of the rows, one after another, to save memory.

    The last slice is smaller if `slices` does not divide the number of rows.
    """
    one = partial(loss_and_grads, experiment, model, loss_scale)
    count = keys.shape[0]
    size = ceil_div(count, slices)
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
    """Concatenate trees along the leading axis."""
    return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)


def add(*parts: Grads) -> Grads:
    """Sum gradients; concatenate the gradients of the table's rows."""
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
    """Return a function that computes the gradients of one update on all devices.

    Args:
        experiment: defines the loss.
        mesh: the devices.
        config: slices, supervision steps, precision, seed.
        state: shapes of the state, for its layout.
        refill: whether each supervision step refills the carry from its batch; if
            false, the carry is filled already.

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

    # Nothing that is differentiated contains a collective, so gradients stay local to
    # each device until `reduce`, and nothing needs `check_vma`.
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
