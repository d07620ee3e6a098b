"""The first state of an experiment, the input of its steps, its compiled programs."""

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, PyTree

from train.evaluation import Evaluation, evaluate
from train.experiment import AbstractExperiment, Phase
from train.mesh import BATCH, global_batch
from train.state import TrainState, abstract_state, init_state
from train.step import make_eval_step, make_train_step
from train.table import make_table
from train.watch.terminal import Terminal


def first_state(experiment: AbstractExperiment) -> TrainState:
    """Return the state before the first step, with first weights if there are some."""
    state = init_state(experiment.init, experiment.mesh)
    first = experiment.first_weights()
    if first is None:
        return state
    model, rows = first
    like = abstract_state(experiment.init, experiment.mesh)
    table = make_table(rows, experiment.mesh.size)
    model, table = jax.tree.map(placed, (model, table), (like.model, like.table))
    ema = None if state.ema is None else jax.tree.map(jnp.copy, model)
    return eqx.tree_at(
        lambda s: (s.model, s.table, s.ema),
        state,
        (model, table, ema),
        is_leaf=lambda node: node is None,
    )


def placed(leaf: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
    """Return an array that every process has as one over the devices of all."""
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, like.sharding, whole.__getitem__)


def enter(experiment: AbstractExperiment, state: TrainState) -> TrainState:
    """Return the state with a carry of the phase's batch size.

    New rows have halted, and take a puzzle at once. If the batch shrinks, the last rows
    are dropped, with the puzzles they were working on.
    """
    size = experiment.config.batch_size
    if all(len(leaf) == size for leaf in jax.tree.leaves(state.carry)):
        return state

    def resize(model: Any, carry: PyTree) -> PyTree:
        model = experiment.cast(model, experiment.step_config.dtype)
        fresh = experiment.init_carry(model, size)

        def joined(old: Array, new: Array) -> Array:
            rows = min(len(old), len(new))
            return jnp.concatenate([old[:rows], new[rows:]])

        return jax.tree.map(joined, carry, fresh)

    rows = NamedSharding(experiment.mesh, BATCH)
    carry = jax.jit(resize, out_shardings=rows)(state.model, state.carry)
    return eqx.tree_at(lambda state: state.carry, state, carry)


def dispatch(experiment: AbstractExperiment, first: int) -> PyTree:
    """Return the global input of the dispatch whose first step is `first`.

    Axes: calls, supervision steps, rows; of an episode, rows.
    """
    size, each = experiment.config.batch_size, experiment.step_config.supervision_steps
    if experiment.episode:
        return global_batch(experiment.mesh, size, 0)(experiment.train_batch(first))
    calls = experiment.config.steps_per_call
    parts = [experiment.train_batch(first * each + i) for i in range(calls * each)]
    stack = lambda *a: np.stack(a).reshape(calls, each, *a[0].shape)
    return global_batch(experiment.mesh, size, 2)(jax.tree.map(stack, *parts))


def compiled_step(phase: Phase, state: TrainState, terminal: Terminal) -> Any:
    """Compile the train step of a phase: `state, input -> state, metrics`."""
    experiment, first = phase.experiment, max(phase.first, int(state.step))
    state = enter(experiment, state)
    step: Any = make_train_step(
        experiment,
        experiment.optimizer,
        experiment.mesh,
        experiment.step_config,
        state,
        episode=experiment.episode,
    )
    batch = dispatch(experiment, first)
    with warnings.catch_warnings(action="ignore"):  # a batch is donated to no use
        return compiled(step, "the train step", terminal, state, batch)


def compiled_evaluation(
    experiment: AbstractExperiment, model: Any, table: PyTree, terminal: Terminal
) -> Callable[..., Evaluation | None]:
    """Compile the evaluation: `model, table, splits, stop=... -> evaluation`."""
    place = global_batch(experiment.mesh, experiment.eval_batch_size, 0)
    step = make_eval_step(experiment, experiment.mesh, experiment.eval_config, model)
    batch = place(experiment.eval_splits("between")[0].batch(0))
    return partial(
        evaluate,
        compiled(step, "the evaluation", terminal, model, table, batch),
        place=place,
        prefetch=experiment.config.data.prefetch,
        terminal=terminal,
    )


def compiled(step: Any, name: str, terminal: Terminal, *inputs: Any) -> Any:
    """Compile a step for inputs like these, which are not used up.

    A call of the step itself would wait for what it computes.
    """
    begin = time.perf_counter()
    terminal.task(f"compiling {name}")
    program = step.lower(*inputs).compile()
    terminal.say(f"compiled {name} in {time.perf_counter() - begin:.1f} s")
    return program
