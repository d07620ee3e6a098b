"""The gradient of one update: where grad meets `shard_map`.

Each device gathers the parameters in the compute type, works on its own rows of the
batch without any communication, and reduces its gradients once.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree

from train.mesh import AXES, BATCH, REPLICATED, gather, layout, reduce
from train.optim import split_trainable
from train.state import TrainState
from train.objective import Metrics, Task


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a step is carried out.

    None of it changes what is computed, but for the rounding of `precision` and the
    number of `passes` that share an update.
    """

    batch_size: int
    precision: Literal["bfloat16", "float16", "float32"]
    seed: int
    accumulation: int = 1
    passes: int = 1

    def cast(self, tree: PyTree) -> PyTree:
        """Floating leaves in the compute type."""
        dtype = jnp.dtype(self.precision)

        def cast(leaf: Any) -> Any:
            return leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf

        return jax.tree.map(cast, tree)

    def matmuls(self) -> contextlib.AbstractContextManager:
        """True float32 products where float32 is asked for (GPUs and TPUs round)."""
        if self.precision == "float32":
            return jax.default_matmul_precision("highest")
        return contextlib.nullcontext()

    def keys(self, number: Array, rows: Int[Array, " rows"]) -> Key[Array, " rows"]:
        """A key for each row of the global batch in pass `number` of the run."""
        key = jax.random.fold_in(jax.random.key(self.seed), number)
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)


def lookup(table: PyTree, ids: PyTree) -> PyTree:
    """Rows of the table; () without a table."""
    return jax.tree.map(lambda t, i: t[i], table, ids)


class Work(eqx.Module):
    """What a device gets out of some rows. Gradients are sums, in float32."""

    grads: PyTree
    touched: tuple[PyTree, PyTree]
    """Ids of looked-up rows of the table, and their gradients."""

    weight: Float[Array, ""]
    carry: PyTree
    metrics: Metrics


def work_on(
    task: Task,
    model: Any,
    table: PyTree,
    carry: PyTree,
    keys: Key[Array, " batch"],
    factor: Float[Array, ""] | None,
) -> Work:
    """Gradients of the loss of some rows, in one go.

    Args:
        task: the kind of model.
        model: whole, in the compute type.
        table: the puzzle table, or ().
        carry: admitted.
        keys: one for each row.
        factor: what to multiply the mean loss by while differentiating, and to divide
            the gradients by; None for nothing.
    """
    ids = task.row_ids(carry)
    trained, buffers = split_trainable(model)

    def loss(arguments: tuple[Any, PyTree]) -> Any:
        trained, rows = arguments
        value, rest = task.loss(eqx.combine(trained, buffers), rows, carry, keys)
        if factor is not None:
            value = value * (factor / jnp.maximum(rest[0], 1.0))
        return value, rest

    inputs = (trained, lookup(table, ids))
    (_, (weight, carry, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(
        inputs
    )
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    if factor is not None:
        undo = jnp.maximum(weight, 1.0) / factor
        grads = jax.tree.map(lambda g: g * undo, grads)
    return Work(grads[0], (ids, grads[1]), weight, carry, metrics)


def work_in_slices(
    task: Task,
    slices: int,
    model: Any,
    table: PyTree,
    carry: PyTree,
    keys: Key[Array, " batch"],
    factor: Float[Array, ""] | None,
) -> Work:
    """`work_on` slices of the rows, one after another, to save memory."""
    if slices == 1:
        return work_on(task, model, table, carry, keys, factor)

    def body(total: PyTree, inputs: tuple[PyTree, Key[Array, " batch"]]) -> Any:
        work = work_on(task, model, table, *inputs, factor)
        total = jax.tree.map(jnp.add, total, work.grads)
        return total, eqx.tree_at(lambda w: w.grads, work, ())

    cut = lambda a: a.reshape(slices, -1, *a.shape[1:])
    join = lambda a: a.reshape(-1, *a.shape[2:])
    zeros = jax.tree.map(
        lambda p: jax.lax.pcast(jnp.zeros(p.shape), AXES, to="varying"),
        split_trainable(model)[0],
    )
    inputs = jax.tree.map(cut, (carry, keys))
    grads, work = jax.lax.scan(body, zeros, inputs)
    touched, carry = jax.tree.map(join, (work.touched, work.carry))
    weight, metrics = jax.tree.map(lambda m: m.sum(0), (work.weight, work.metrics))
    return Work(grads, touched, weight, carry, metrics)


def make_gradients(
    task: Task, mesh: Mesh, plan: Plan, state: TrainState, *, admit: bool
) -> Callable[[TrainState, PyTree], tuple[PyTree, PyTree, PyTree, Metrics]]:
    """The work of all devices on one update.

    Args:
        task: the kind of model.
        mesh: the devices.
        plan: slices, passes, precision, seed.
        state: shapes of the state, for its layout.
        admit: whether each pass takes in its batch (else the carry has admitted one).

    Returns:
        `state, batch -> grads, touched, carry, metrics`: the gradient of the mean loss
        over rows and passes in float32; ids and gradients of looked-up rows.
    """
    specs = layout(state.model, mesh)
    trained_specs = layout(split_trainable(state.model)[0], mesh)
    local = plan.batch_size // mesh.size

    def device(
        model: Any,
        table: PyTree,
        carry: PyTree,
        batch: PyTree,
        update: Array,
        scale: Any,
    ) -> Any:
        model = gather(plan.cast(model), specs)
        factor = None if scale is None else scale.factor
        rows = jax.lax.axis_index(AXES) * local + jnp.arange(local)
        works: list[Work] = []
        for index in range(plan.passes):
            keys = plan.keys(update * plan.passes + index, rows)
            if admit:
                offered = jax.tree.map(lambda a, i=index: a[i], batch)
                carry = task.admit(model, carry, offered)
            work = work_in_slices(
                task, plan.accumulation, model, table, carry, keys, factor
            )
            works, carry = [*works, work], work.carry
        add = lambda *parts: jax.tree.map(lambda *x: sum(x), *parts)
        grads = reduce(add(*(w.grads for w in works)), trained_specs)
        scalars, separate = ravel_pytree(add(*((w.weight, w.metrics) for w in works)))
        weight, metrics = separate(jax.lax.psum(scalars, AXES))
        touched = jax.tree.map(
            lambda *parts: jnp.concatenate(parts), *(w.touched for w in works)
        )
        return grads, touched, weight, carry, metrics

    split = jax.shard_map(
        device,
        mesh=mesh,
        in_specs=(
            specs,
            REPLICATED,
            BATCH,
            PartitionSpec(None, AXES),
            REPLICATED,
            REPLICATED,
        ),
        out_specs=(trained_specs, BATCH, REPLICATED, BATCH, REPLICATED),
    )

    def gradients(state: TrainState, batch: PyTree) -> Any:
        grads, (ids, row_grads), weight, carry, metrics = split(
            state.model, state.table, state.carry, batch, state.updates, state.scale
        )
        scale = 1.0 / jnp.maximum(weight, 1.0)
        mean = lambda tree: jax.tree.map(lambda g: g * scale, tree)
        return mean(grads), (ids, mean(row_grads)), carry, metrics

    return gradients
