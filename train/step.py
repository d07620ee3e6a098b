"""The train step and the evaluation step: where grad, vmap, shard_map and jit meet.

A step is `state, batch -> state, metrics`, made once by a factory that closes over what
never changes. Each device gathers the parameters in the compute type, works on its own
rows of the batch without any communication, and reduces its gradients once. The
optimizer sees global arrays; the compiler splits it like the parameters.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Key, PyTree

from train.mesh import AXES, BATCH, REPLICATED, gather, layout, reduce
from train.optim import Schedule, split_trainable, update_ema
from train.state import TrainState, state_shardings
from trm.puzzle_table import sign_sgd_rows

Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
"""Sums over rows and steps, each with the count to divide it by."""


TrainStep = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]
"""State and batch in, state and metrics out."""


@runtime_checkable
class Task(Protocol):
    """What the step needs to know of a kind of model. All batches are local."""

    def init_carry(self, model: Any, batch: int) -> PyTree:
        """What rows carry before the first step."""
        ...

    def admit(self, model: Any, carry: PyTree, batch: PyTree) -> PyTree:
        """The carry after it has taken in a new batch."""
        ...

    def row_ids(self, carry: PyTree) -> PyTree:
        """Rows of the table that an admitted carry looks up; () without a table."""
        ...

    def done(self, carry: PyTree) -> Bool[Array, ""]:
        """Whether no row is under way."""
        ...

    def loss(
        self, model: Any, rows: PyTree, carry: PyTree, keys: Key[Array, " batch"]
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        """The summed loss of an admitted carry, the next carry, the metrics."""
        ...

    def evaluate(
        self, model: Any, rows: PyTree, carry: PyTree
    ) -> tuple[Metrics, PyTree]:
        """Metrics and predictions of an admitted carry."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a step is carried out.

    None of it changes what is computed, but for the rounding of `precision` and the
    number of `passes` that share an update.
    """

    batch_size: int
    precision: Literal["bfloat16", "float32"]
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


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The updates: optimizer and schedule of the network, average, puzzle table."""

    optimizer: optax.GradientTransformation
    schedule: Schedule
    ema: float
    table_schedule: Schedule
    table_weight_decay: float


def lookup(table: PyTree, ids: PyTree) -> PyTree:
    """Rows of the table; () without a table."""
    return jax.tree.map(lambda t, i: t[i], table, ids)


def make_gradients(
    task: Task, mesh: Mesh, plan: Plan, state: TrainState, *, admit: bool
) -> Callable[..., tuple[PyTree, PyTree, PyTree, Metrics]]:
    """The work of all devices on one update.

    Args:
        task: the kind of model.
        mesh: the devices.
        plan: slices, passes, precision, seed.
        state: shapes of the state, for its layout.
        admit: whether each pass takes in its batch (else the carry has admitted one).

    Returns:
        `model, table, carry, batch, update -> grads, touched, carry, metrics`: the mean
        gradient over rows and passes in float32; ids and gradients of looked-up rows.
    """
    specs = layout(state.model, mesh)
    trained_specs = layout(split_trainable(state.model)[0], mesh)
    local = plan.batch_size // mesh.size
    slices = plan.accumulation

    def one_slice(
        model: Any, table: PyTree, carry: PyTree, keys: Key[Array, " batch"]
    ) -> Any:
        ids = task.row_ids(carry)
        trained, buffers = split_trainable(model)

        def loss(arguments: tuple[Any, PyTree]) -> Any:
            trained, rows = arguments
            return task.loss(eqx.combine(trained, buffers), rows, carry, keys)

        inputs = (trained, lookup(table, ids))
        (_, (carry, metrics)), (grads, row_grads) = jax.value_and_grad(
            loss, has_aux=True
        )(inputs)
        grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
        return grads, ((ids, row_grads), carry, metrics)

    def one_pass(
        model: Any, table: PyTree, carry: PyTree, keys: Key[Array, " batch"]
    ) -> Any:
        if slices == 1:
            return one_slice(model, table, carry, keys)

        def body(total: PyTree, inputs: tuple[PyTree, Key[Array, " batch"]]) -> Any:
            grads, rest = one_slice(model, table, *inputs)
            return jax.tree.map(jnp.add, total, grads), rest

        cut = lambda a: a.reshape(slices, local // slices, *a.shape[1:])
        join = lambda a: a.reshape(local, *a.shape[2:])
        zeros = jax.tree.map(
            lambda p: jax.lax.pcast(jnp.zeros(p.shape), AXES, to="varying"),
            split_trainable(model)[0],
        )
        inputs = jax.tree.map(cut, (carry, keys))
        grads, (touched, carry, metrics) = jax.lax.scan(body, zeros, inputs)
        touched, carry = jax.tree.map(join, (touched, carry))
        return grads, (touched, carry, jax.tree.map(lambda m: m.sum(0), metrics))

    def device(
        model: Any, table: PyTree, carry: PyTree, batch: PyTree, update: Array
    ) -> Any:
        model = gather(plan.cast(model), specs)
        first = jax.lax.axis_index(AXES) * local
        grads, touched, metrics = [], [], []
        for index in range(plan.passes):
            key = jax.random.key(plan.seed)
            key = jax.random.fold_in(key, update * plan.passes + index)
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
                key, first + jnp.arange(local)
            )
            if admit:
                offered = jax.tree.map(lambda a, i=index: a[i], batch)
                carry = task.admit(model, carry, offered)
            g, (t, carry, m) = one_pass(model, table, carry, keys)
            grads, touched, metrics = [*grads, g], [*touched, t], [*metrics, m]
        scale = 1.0 / (plan.batch_size * plan.passes)
        total = jax.tree.map(lambda *g: scale * sum(g), *grads)
        ids, row_grads = jax.tree.map(lambda *t: jnp.concatenate(t), *touched)
        metrics = jax.tree.map(lambda *m: sum(m), *metrics)
        return (
            reduce(total, trained_specs),
            (ids, jax.tree.map(lambda g: scale * g, row_grads)),
            carry,
            jax.lax.psum(metrics, AXES),
        )

    return jax.shard_map(
        device,
        mesh=mesh,
        in_specs=(specs, REPLICATED, BATCH, PartitionSpec(None, AXES), REPLICATED),
        out_specs=(trained_specs, BATCH, BATCH, REPLICATED),
    )


def make_update(
    task: Task,
    rules: Rules,
    mesh: Mesh,
    plan: Plan,
    state: TrainState,
    *,
    admit: bool,
) -> TrainStep:
    """One optimizer update, traced into larger programs; see `make_train_step`."""
    gradients = make_gradients(task, mesh, plan, state, admit=admit)
    shardings = state_shardings(state, mesh)

    def update(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        grads, touched, carry, metrics = gradients(
            state.model, state.table, state.carry, batch, state.updates
        )
        trained, buffers = split_trainable(state.model)
        changes, opt_state = rules.optimizer.update(grads, state.opt_state, trained)
        model = eqx.combine(optax.apply_updates(trained, changes), buffers)
        table_lr = rules.table_schedule(state.updates)
        table = jax.tree.map(
            lambda table, ids, row_grads: sign_sgd_rows(
                table,
                ids,
                row_grads,
                lr=table_lr,
                weight_decay=rules.table_weight_decay,
            ),
            state.table,
            *touched,
        )
        one = jnp.ones(())
        metrics["grad_norm"] = (optax.tree.norm(grads), one)
        metrics["lr"] = (rules.schedule(state.updates), one)
        state = TrainState(
            step=state.step + 1,
            updates=state.updates + 1,
            model=model,
            ema=None if state.ema is None else update_ema(state.ema, model, rules.ema),
            table=table,
            opt_state=opt_state,
            carry=carry,
        )
        return eqx.filter_shard(state, shardings), metrics

    return update


def make_step(
    task: Task,
    rules: Rules,
    mesh: Mesh,
    plan: Plan,
    state: TrainState,
    *,
    episode: bool = False,
) -> TrainStep:
    """The train step, `state, batch -> state, metrics`, not yet compiled.

    Args:
        task: the kind of model.
        rules: how parameters change.
        mesh: the devices.
        plan: slices, passes, precision, seed.
        state: a state, or its shapes.
        episode: update on one batch until all of its rows are done (paper, figure 3),
            instead of once (official code).

    Returns:
        The step. A batch has axes `calls, passes, rows, ...` (episode: `rows, ...`).
        One dispatch makes an update for each call; metrics are summed over them.
    """
    update = make_update(task, rules, mesh, plan, state, admit=not episode)

    def stream(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        if jax.tree.leaves(batch)[0].shape[0] == 1:
            return update(state, jax.tree.map(lambda a: a[0], batch))
        state, metrics = jax.lax.scan(update, state, batch)
        return state, jax.tree.map(lambda m: m.sum(0), metrics)

    def whole_episode(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        step = state.step
        admitted = task.admit(plan.cast(state.model), state.carry, batch)
        state = eqx.tree_at(lambda s: s.carry, state, admitted)
        batch = jax.tree.map(lambda a: a[None], batch)
        _, shapes = jax.eval_shape(update, state, batch)
        zeros = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), shapes)

        def again(loop: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = update(loop[0], batch)
            return state, jax.tree.map(jnp.add, loop[1], metrics)

        state, metrics = jax.lax.while_loop(
            lambda loop: ~task.done(loop[0].carry), again, (state, zeros)
        )
        return eqx.tree_at(lambda s: s.step, state, step + 1), metrics

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        with plan.matmuls():
            return (whole_episode if episode else stream)(state, batch)

    return step


def make_train_step(
    task: Task,
    rules: Rules,
    mesh: Mesh,
    plan: Plan,
    state: TrainState,
    *,
    episode: bool = False,
) -> TrainStep:
    """`make_step`, compiled; the state that is passed in is donated."""
    step = make_step(task, rules, mesh, plan, state, episode=episode)

    @eqx.filter_jit(donate="all-except-first")
    def compiled(batch: PyTree, state: TrainState) -> tuple[TrainState, Metrics]:
        return step(state, batch)

    return lambda state, batch: compiled(batch, state)


def make_eval_step(
    task: Task, mesh: Mesh, plan: Plan, model: Any
) -> Callable[[Any, PyTree, PyTree], tuple[Metrics, PyTree]]:
    """The compiled evaluation, `model, table, batch -> metrics, predictions`.

    Args:
        task: the kind of model.
        mesh: the devices.
        plan: its batch size and precision.
        model: a model, or its shapes.
    """
    specs = layout(model, mesh)

    def device(model: Any, table: PyTree, carry: PyTree, batch: PyTree) -> Any:
        model = gather(plan.cast(model), specs)
        carry = task.admit(model, carry, batch)
        rows = lookup(table, task.row_ids(carry))
        metrics, predictions = task.evaluate(model, rows, carry)
        return jax.lax.psum(metrics, AXES), predictions

    split = jax.shard_map(
        device,
        mesh=mesh,
        in_specs=(specs, REPLICATED, BATCH, BATCH),
        out_specs=(REPLICATED, BATCH),
    )

    @eqx.filter_jit
    def evaluate(model: Any, table: PyTree, batch: PyTree) -> tuple[Metrics, PyTree]:
        with plan.matmuls():
            carry = task.init_carry(plan.cast(model), plan.batch_size)
            return split(model, table, carry, batch)

    return evaluate
