"""The train step and the evaluation step, compiled.

A step is `state, batch -> state, metrics`, made once per experiment and layout. The
optimizer works on global arrays; the compiler splits its work like the parameters.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree

from gpt.metrics import Metrics
from train.experiment import AbstractExperiment, StepConfig
from train.gradients import make_gradients
from train.mesh import AXES, BATCH, REPLICATED, gather, layout
from train.optim import Optimizer, split_trainable
from train.state import LossScale, TrainState, all_finite, state_shardings
from train.table import TABLE, lookup, update_rows

TrainStep = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]
"""`state, batch -> state, metrics`."""

EvalStep = Callable[[Any, PyTree, PyTree], tuple[Metrics, PyTree]]
"""`model, puzzle table, batch -> metrics, predictions`."""


def make_update(
    experiment: AbstractExperiment,
    optimizer: Optimizer,
    mesh: Mesh,
    config: StepConfig,
    state: TrainState,
    *,
    refill: bool,
) -> TrainStep:
    """Return a function that makes one update, not compiled; see `make_train_step`."""
    gradients = make_gradients(experiment, mesh, config, state, refill=refill)
    shardings = state_shardings(state, mesh)
    one = jnp.ones(())

    def update(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        sums, (ids, row_sums), weight, metrics, carry = gradients(
            state.model, state.table, state.carry, state.scale, state.updates, batch
        )
        share = 1.0 / jnp.maximum(weight, 1.0)
        mean = lambda tree: jax.tree.map(lambda g: g * share, tree)
        with jax.named_scope("optimizer"):
            grads = mean(sums)
            trained, buffers = split_trainable(state.model)
            changes, opt_state = optimizer.tx.update(grads, state.opt_state, trained)
            model = eqx.combine(optax.apply_updates(trained, changes), buffers)
            ema = state.ema
            if ema is not None:
                ema = optimizer.average(ema, model, state.updates)
        table = state.table
        if optimizer.table_update is not None:
            update_table = jax.shard_map(
                partial(update_rows, optimizer.table_update),
                mesh=mesh,
                in_specs=(TABLE, BATCH, BATCH, REPLICATED),
                out_specs=TABLE,
                check_vma=False,
            )
            with jax.named_scope("table"):
                table = update_table(state.table, ids, mean(row_sums), state.updates)
        after = TrainState(
            step=state.step + 1,
            updates=state.updates + 1,
            model=model,
            ema=ema,
            table=table,
            opt_state=opt_state,
            carry=carry,
            scale=state.scale,
        )
        metrics = metrics | {
            "grad_norm": (optax.tree.norm(grads), one),
            "lr": (optimizer.schedule(state.updates), one),
        }
        if optimizer.table_schedule is not None:
            metrics["table_lr"] = optimizer.table_schedule(state.updates), one
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
    """Undo the update if a number overflowed, and adjust the loss scale.

    A skipped update consumes its batch, but counts neither for the schedule nor in the
    metrics.
    """
    finite = all_finite(grads) & all_finite(metrics)
    undone = lambda s: (s.updates, s.model, s.ema, s.table, s.opt_state)
    chosen = optax.tree.where(finite, undone(after), undone(before))
    after = eqx.tree_at(
        lambda s: (*undone(s), s.scale),
        after,
        (*chosen, scale.after(finite)),
        is_leaf=lambda x: x is None,
    )
    one = jnp.ones(())
    metrics = jax.tree.map(lambda m: jnp.where(finite, m, 0.0), metrics)
    return after, metrics | {
        "loss_scale": (scale.factor, one),
        "skipped": (1.0 - finite.astype(jnp.float32), one),
    }


def make_train_step(
    experiment: AbstractExperiment,
    optimizer: Optimizer,
    mesh: Mesh,
    config: StepConfig,
    state: TrainState,
    *,
    episode: bool = False,
    compiled: bool = True,
) -> TrainStep:
    """Return the train step, `state, batch -> state, metrics`.

    Args:
        experiment: defines loss, evaluation and carry.
        optimizer: updates the parameters.
        mesh: the devices.
        config: slices, supervision steps, precision, seed.
        state: a state, or its shapes.
        episode: update on one batch until all of its rows are done (paper, figure 3),
            instead of once (official code).
        compiled: compile the step, which then donates its state.

    Returns:
        The step. A batch has axes `calls, supervision steps, rows, ...` (episode:
        `rows, ...`). A step makes one update per call, and sums the metrics over calls.
    """
    update = make_update(experiment, optimizer, mesh, config, state, refill=not episode)

    def whole_episode(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        step = state.step
        model = experiment.cast(state.model, config.dtype)
        filled = experiment.refill(model, state.carry, batch)
        state = eqx.tree_at(lambda s: s.carry, state, filled)
        batch = jax.tree.map(lambda a: a[None], batch)
        _, shapes = jax.eval_shape(update, state, batch)
        zeros = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), shapes)

        def again(loop: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = update(loop[0], batch)
            return state, jax.tree.map(jnp.add, loop[1], metrics)

        state, metrics = jax.lax.while_loop(
            lambda loop: ~experiment.done(loop[0].carry), again, (state, zeros)
        )
        return eqx.tree_at(lambda s: s.step, state, step + 1), metrics

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        with config.matmuls():
            if episode:
                return whole_episode(state, batch)
            if jax.tree.leaves(batch)[0].shape[0] == 1:
                return update(state, jax.tree.map(lambda a: a[0], batch))
            state, metrics = jax.lax.scan(update, state, batch)
            return state, jax.tree.map(lambda m: m.sum(0), metrics)

    if not compiled:
        return step
    return eqx.filter_jit(step, donate="all")


def make_eval_step(
    experiment: AbstractExperiment, mesh: Mesh, config: StepConfig, model: Any
) -> EvalStep:
    """Return the compiled evaluation, `model, table, batch -> metrics, predictions`.

    Args:
        experiment: defines the evaluation.
        mesh: the devices.
        config: batch size and precision.
        model: a model, or its shapes.
    """
    specs = layout(model, mesh)

    def device(model: Any, table: PyTree, carry: PyTree, batch: PyTree) -> Any:
        model = gather(experiment.cast(model, config.dtype), specs)
        carry = experiment.refill(model, carry, batch)
        rows = lookup(table, experiment.row_ids(carry))
        metrics, predictions = experiment.evaluate(model, rows, carry)
        return jax.lax.psum(metrics, AXES), predictions

    split = jax.shard_map(
        device,
        mesh=mesh,
        in_specs=(specs, TABLE, BATCH, BATCH),
        out_specs=(REPLICATED, BATCH),
        check_vma=False,
    )

    @eqx.filter_jit
    def evaluate(model: Any, table: PyTree, batch: PyTree) -> tuple[Metrics, PyTree]:
        with config.matmuls():
            cast = experiment.cast(model, config.dtype)
            carry = experiment.init_carry(cast, config.batch_size)
            return split(model, table, carry, batch)

    return evaluate
