"""Adaptive computation time: rows of a batch that start, step and halt on their own.

A `Carry` lives across batches. A row that has halted takes the next puzzle offered to
it (`refill`); every row then makes one supervision step and may halt. Evaluation runs
the same body in a `while_loop`, from a fresh carry.

Source: `models/recursive_reasoning/trm.py`, `TinyRecursiveReasoningModel_ACTV1`;
paper section 4.1 and figure 3.
"""

from typing import assert_never

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key, PRNGKeyArray, PyTree

from configs import ACTConfig
from data.puzzles.dataset import Puzzle
from trm.model import TRM, Prediction
from trm.noise import fold, puzzle_keys


class Carry(eqx.Module):
    """Rows under way. Leading batch axis on every leaf."""

    latents: PyTree[Float[Array, "batch length dim"]]
    steps: Int32[Array, " batch"]
    halted: Bool[Array, " batch"]
    puzzle: Puzzle


def init_carry(model: TRM, batch: int, seq: int) -> Carry:
    """A carry of which every row has halted; what else it holds does not matter."""
    length = model.length(seq)
    cells = lambda: jnp.zeros((batch, seq), jnp.int32)
    return Carry(
        latents=jax.tree.map(
            lambda fresh: jnp.zeros((batch, length, *fresh.shape), fresh.dtype),
            model.recursion.init(),
        ),
        steps=jnp.zeros(batch, jnp.int32),
        halted=jnp.ones(batch, bool),
        puzzle=Puzzle(cells(), cells(), jnp.zeros(batch, jnp.int32)),
    )


def select_rows(flag: Bool[Array, " batch"], new: PyTree, old: PyTree) -> PyTree:
    """For each row, `new` where its flag is set, else `old`; `new` may be broadcast."""

    def pick(a: Array, b: Array) -> Array:
        mask = flag.reshape(-1, *[1] * (b.ndim - 1))
        return jnp.where(mask, jnp.broadcast_to(a, b.shape), b)

    return jax.tree.map(pick, new, old)


def refill(model: TRM, carry: Carry, puzzle: Puzzle) -> Carry:
    """Rows that have halted start on the puzzle offered; the others keep theirs."""
    return Carry(
        latents=select_rows(carry.halted, model.recursion.init(), carry.latents),
        steps=jnp.where(carry.halted, 0, carry.steps),
        halted=jnp.zeros_like(carry.halted),
        puzzle=select_rows(carry.halted, puzzle, carry.puzzle),
    )


def wants_to_halt(prediction: Prediction, config: ACTConfig) -> Bool[Array, "*batch"]:
    """Whether the Q values ask to stop, by the rule `config.halt`."""
    match config.halt:
        case "positive":
            return prediction.q_halt > 0
        case "compare":
            return prediction.q_halt > prediction.q_continue
        case "never":
            return jnp.zeros_like(prediction.q_halt, bool)
        case _:
            assert_never(config.halt)


def least_steps(key: PRNGKeyArray, config: ACTConfig) -> Int32[Array, ""]:
    """Exploration: steps that a row must make, 0 or uniform in 2 .. `max_steps`."""
    if_key, least_key = jax.random.split(key)
    explores = jax.random.uniform(if_key) < config.exploration
    least = jax.random.randint(least_key, (), 2, config.max_steps + 1)
    return jnp.where(explores, least, 0)


def halts(
    prediction: Prediction,
    steps: Int32[Array, " batch"],
    keys: Key[Array, " batch"],
    config: ACTConfig,
) -> Bool[Array, " batch"]:
    """Whether a training row stops after `steps` steps. `keys`: one for each row."""
    last = steps >= config.max_steps
    if config.max_steps == 1 or config.halt == "never":
        return last
    stop = last | wants_to_halt(prediction, config)
    if config.exploration == 0.0:
        return stop
    return stop & (steps >= jax.vmap(least_steps, in_axes=(0, None))(keys, config))


def solve(
    model: TRM,
    rows: Float[Array, "batch width"],
    carry: Carry,
    config: ACTConfig,
    *,
    early: bool,
) -> tuple[Carry, Prediction]:
    """Supervision steps without gradient until all rows have halted.

    A variant with noise draws that of a puzzle from its tokens, always the same.

    Args:
        model: cast.
        rows: the puzzle table's rows of `carry.puzzle`.
        carry: freshly refilled.
        config: `max_steps` and the halting rule.
        early: whether rows stop by the rule, or all make `max_steps` (official).

    Returns:
        The last carry, with the steps of each row, and its prediction.
    """
    model = jax.tree.map(lambda w: w.astype(model.compute_type), model)
    x = model.embed(carry.puzzle.inputs, rows)
    keys = puzzle_keys(carry.puzzle.inputs)
    start = model.start(carry.latents, carry.steps == 0, keys)
    carry = Carry(start, carry.steps, carry.halted, carry.puzzle)

    def step(carry: Carry) -> Carry:
        latents = model.refine(carry.latents, x, fold(keys, carry.steps))
        steps = carry.steps + 1
        halted = steps >= config.max_steps
        if early:
            halted |= wants_to_halt(model.predict(latents), config)
        stepped = Carry(latents, steps, halted, carry.puzzle)
        return select_rows(carry.halted, carry, stepped)

    carry = jax.lax.while_loop(lambda carry: ~jnp.all(carry.halted), step, carry)
    return carry, model.predict(carry.latents)
