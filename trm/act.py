"""Adaptive computation time: rows of a batch that start, step and halt on their own.

A `Carry` lives across batches. A row that has halted takes the next puzzle offered to
it (`refill`); every row then makes one supervision step and may halt. Evaluation has
rows of its own: `trm/evaluation.py`.

Source: `models/recursive_reasoning/trm.py`, `TinyRecursiveReasoningModel_ACTV1`;
paper section 4.1 and figure 3.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key, PRNGKeyArray, PyTree

from configs import ACTConfig
from data.puzzles.dataset import Puzzle
from trm.flow import Path
from trm.model import TRM, Prediction


@dataclass(frozen=True)
class Halting:
    """A rule that stops rows before `max_steps`."""

    rule: Callable[[Prediction, PyTree], tuple[Bool[Array, " batch"], PyTree]]
    """Takes the predictions and memories of a batch; returns the rows to stop and the
    next memories."""

    memory: PyTree[Array] = ()
    """Arrays that each row keeps between steps, such as its last answer. Given without
    a batch axis, as they are when a puzzle starts."""


class Carry(eqx.Module):
    """Rows under way. Leading batch axis on every leaf."""

    latents: PyTree[Float[Array, "batch *chains length dim"]]
    steps: Int32[Array, " batch"]
    halted: Bool[Array, " batch"]
    puzzle: Puzzle
    memory: PyTree[Array] = ()
    """Of the halting rule."""


class FlowCarry(Carry):
    """Rows under way of a model with a looped flow."""

    path: Path = eqx.field(kw_only=True)


def init_carry(
    model: TRM, batch: int, seq: int, memory: PyTree[Array] = (), chains: int = 1
) -> Carry:
    """Return rows that have all halted, so that their other values do not matter.

    With `chains` above 1, latents have an axis of chains after the batch axis.
    """
    length = model.length(seq)
    latents = [length] if chains == 1 else [chains, length]
    flow = model.flow
    cells = lambda: jnp.zeros((batch, seq), jnp.int32)
    zeros = lambda shape: lambda a: jnp.zeros((batch, *shape, *a.shape), a.dtype)
    make = (
        Carry if flow is None else partial(FlowCarry, path=flow.init_path(batch, seq))
    )
    return make(
        latents=jax.tree.map(zeros(latents), model.recursion.init()),
        steps=jnp.zeros(batch, jnp.int32),
        halted=jnp.ones(batch, bool),
        puzzle=Puzzle(cells(), cells(), jnp.zeros(batch, jnp.int32)),
        memory=jax.tree.map(zeros([]), memory),
    )


def select_rows(flag: Bool[Array, " batch"], new: PyTree, old: PyTree) -> PyTree:
    """For each row, `new` where its flag is set, else `old`; `new` may be broadcast."""

    def pick(a: Array, b: Array) -> Array:
        mask = flag.reshape(-1, *[1] * (b.ndim - 1))
        return jnp.where(mask, jnp.broadcast_to(a, b.shape), b)

    return jax.tree.map(pick, new, old)


def refill(
    model: TRM, carry: Carry, puzzle: Puzzle, memory: PyTree[Array] = ()
) -> Carry:
    """Start halted rows on the puzzles offered; running rows keep their puzzles."""
    return replace(
        carry,
        latents=select_rows(carry.halted, model.recursion.init(), carry.latents),
        steps=jnp.where(carry.halted, 0, carry.steps),
        halted=jnp.zeros_like(carry.halted),
        puzzle=select_rows(carry.halted, puzzle, carry.puzzle),
        memory=select_rows(carry.halted, memory, carry.memory),
    )


def wants_to_halt(prediction: Prediction, config: ACTConfig) -> Bool[Array, "*batch"]:
    """Apply the rule `config.halt` to the Q values."""
    match config.halt:
        case "positive":
            return prediction.q_halt > 0
        case "compare":
            return prediction.q_halt > prediction.q_continue
        case "never":
            return jnp.zeros_like(prediction.q_halt, bool)
        case _:
            assert_never(config.halt)


def halting_of(config: ACTConfig) -> Halting:
    """Return the configured rule; it has no memory."""
    return Halting(lambda prediction, memory: (wants_to_halt(prediction, config), ()))


def least_steps(key: PRNGKeyArray, config: ACTConfig) -> Int32[Array, ""]:
    """Draw the steps that exploration demands: 0, or uniform in 2 .. `max_steps`."""
    if_key, least_key = jax.random.split(key)
    explores = jax.random.uniform(if_key) < config.exploration
    least = jax.random.randint(least_key, (), 2, config.max_steps + 1)
    return jnp.where(explores, least, 0)


def halts(
    stop: Bool[Array, " batch"],
    steps: Int32[Array, " batch"],
    keys: Key[Array, " batch"],
    config: ACTConfig,
) -> Bool[Array, " batch"]:
    """Return the training rows that halt after `steps` steps.

    Args:
        stop: rows that the rule stops.
        steps: made by each row.
        keys: one for each row.
        config: `max_steps` and exploration.
    """
    last = steps >= config.max_steps
    if config.max_steps == 1:
        return last
    if config.exploration == 0.0:
        return last | stop
    least = jax.vmap(least_steps, in_axes=(0, None))(keys, config)
    return (last | stop) & (steps >= least)
