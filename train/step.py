"""The train step and the evaluation step, compiled.

A step is `state, batch -> state, metrics`, made once by a factory that closes over what
never changes. The optimizer sees global arrays; the compiler splits it like the
parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree

from train.gradients import Plan, lookup, make_gradients
from train.loss_scale import LossScale, all_finite, choose
from train.mesh import AXES, BATCH, REPLICATED, gather, layout
from train.optim import Schedule, split_trainable, update_ema
from train.state import TrainState, state_shardings
from train.objective import Metrics, Task
from trm.puzzle_table import sign_sgd_rows

TrainStep = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]
"""State and batch in, state and metrics out."""


@dataclass(frozen=True, kw_only=True)
class TableRules:
    """The update of the puzzle table."""

    schedule: Schedule
    weight_decay: float

    def update(self, table: PyTree, touched: PyTree, count: Any) -> PyTree:
        """The table after SignSGD on its touched rows; () without a table."""
        rate = self.schedule(count)
        return jax.tree.map(
            lambda table, ids, grads: sign_sgd_rows(
                table, ids, grads, lr=rate, weight_decay=self.weight_decay
            ),
            table,
            *touched,
        )


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The updates: optimizer and schedule of the network, average, puzzle table."""

    optimizer: optax.GradientTransformation
    schedule: Schedule
    ema: float
    table: TableRules | None = None


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
    one = jnp.ones(())

    def update(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        grads, touched, carry, metrics = gradients(state, batch)
        trained, buffers = split_trainable(state.model)
        changes, opt_state = rules.optimizer.update(grads, state.opt_state, trained)
        model = eqx.combine(optax.apply_updates(trained, changes), buffers)
        table = state.table
        if rules.table is not None:
            table = rules.table.update(table, touched, state.updates)
        metrics["grad_norm"] = (optax.tree.norm(grads), one)
        metrics["lr"] = (rules.schedule(state.updates), one)
        after = TrainState(
            step=state.step + 1,
            updates=state.updates + 1,
            model=model,
            ema=None if state.ema is None else update_ema(state.ema, model, rules.ema),
            table=table,
            opt_state=opt_state,
            carry=carry,
            scale=state.scale,
        )
        if state.scale is not None:
            after, metrics = skip_overflow(state, state.scale, after, grads, metrics)
        return eqx.filter_shard(after, shardings), metrics

    return update


def skip_overflow(
    before: TrainState,
    scale: LossScale,
    after: TrainState,
    grads: PyTree,
    metrics: Metrics,
) -> tuple[TrainState, Metrics]:
    """The update, or if a gradient overflowed no update; and the next loss scale.

    A skipped update consumes its batch, but does not count for the schedule.
    """
    finite = all_finite(grads)
    norm, counted = metrics["grad_norm"][0], finite.astype(jnp.float32)
    kept = lambda s: (s.updates, s.model, s.ema, s.table, s.opt_state)
    chosen = choose(finite, kept(after), kept(before))
    after = eqx.tree_at(
        lambda s: (*kept(s), s.scale),
        after,
        (*chosen, scale.after(finite)),
        is_leaf=lambda x: x is None,
    )
    one = jnp.ones(())
    return after, metrics | {
        "grad_norm": (jnp.where(finite, norm, 0.0), counted),
        "loss_scale": (scale.factor, one),
        "skipped": (1.0 - counted, one),
    }


def make_train_step(
    task: Task,
    rules: Rules,
    mesh: Mesh,
    plan: Plan,
    state: TrainState,
    *,
    episode: bool = False,
    compiled: bool = True,
) -> TrainStep:
    """The train step, `state, batch -> state, metrics`.

    Args:
        task: the kind of model.
        rules: how parameters change.
        mesh: the devices.
        plan: slices, passes, precision, seed.
        state: a state, or its shapes.
        episode: update on one batch until all of its rows are done (paper, figure 3),
            instead of once (official code).
        compiled: whether to compile it, donating the state that is passed in.

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

    if not compiled:
        return step
    run = eqx.filter_jit(
        lambda batch, state: step(state, batch), donate="all-except-first"
    )
    return lambda state, batch: run(batch, state)


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
