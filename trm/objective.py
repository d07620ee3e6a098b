"""What a TRM learns from puzzles: the functions of its `Objective` (`train/trm.py`)."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from configs import ACTConfig
from data.puzzles.dataset import IGNORE
from gpt.metrics import Metrics
from trm.act import Carry, halts, select_rows, solve
from trm.loss import Parts, metrics, puzzle_loss
from trm.model import TRM, Prediction
from trm.recursion import Latents

NO_ROW = jnp.iinfo(jnp.int32).max
"""An id beyond every puzzle table."""


def row_ids(carry: Carry) -> Int[Array, " batch"]:
    """The rows of the puzzle table that the puzzles under way look up."""
    return jnp.where(carry.halted, NO_ROW, carry.puzzle.puzzle_id)


def supervision_loss(
    model: TRM,
    rows: Float[Array, "batch width"],
    carry: Carry,
    keys: Key[Array, " batch"],
    *,
    config: ACTConfig,
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Carry, Metrics]]:
    """One supervision step: summed loss, rows, the next carry, the metrics.

    Rows that had halted before it stay as they are and count for nothing.

    Args:
        model: cast.
        rows: the puzzle table's rows of `carry.puzzle`.
        carry: refilled.
        keys: one for each row, for exploration and for a variant with noise.
        config: halting rule and losses.
    """
    x = model.embed(carry.puzzle.inputs, rows)
    latents = model.start(carry.latents, carry.steps == 0, keys)
    latents = model.refine(latents, x, keys)
    prediction = model.predict(latents)
    latents = jax.lax.stop_gradient(latents)

    active = ~carry.halted
    steps = carry.steps + 1
    halted = halts(prediction, steps, keys, config)
    stepped = Carry(latents, steps, halted, carry.puzzle)
    q_target = _continue_target(model, latents, x, steps, config)
    one_puzzle = partial(puzzle_loss, config=config)
    labels = carry.puzzle.labels
    loss, losses, scores = jax.vmap(one_puzzle)(prediction, labels, q_target)
    counted = _count(stepped, losses, scores, active)
    loss = jnp.sum(jnp.where(active, loss, 0.0))
    rows_in_all = jnp.array(active.size, jnp.float32)
    return loss, (rows_in_all, select_rows(active, stepped, carry), counted)


def evaluate(
    model: TRM,
    rows: Float[Array, "batch width"],
    carry: Carry,
    *,
    config: ACTConfig,
    early: bool,
) -> tuple[Metrics, Prediction]:
    """Metrics and predictions after all supervision steps; padding rows excluded.

    Args:
        model: cast.
        rows: the puzzle table's rows of `carry.puzzle`.
        carry: freshly refilled.
        config: `max_steps`, halting rule and losses.
        early: whether rows stop by the rule, or all make `max_steps` (official).
    """
    carry, prediction = solve(model, rows, carry, config, early=early)
    one_puzzle = partial(puzzle_loss, config=config)
    _, losses, scores = jax.vmap(one_puzzle)(prediction, carry.puzzle.labels, None)
    real = jnp.any(carry.puzzle.labels != IGNORE, axis=-1)
    return _count(carry, losses, scores, real), prediction


def _continue_target(
    model: TRM,
    latents: Latents,
    x: Float[Array, "batch length dim"],
    steps: Int[Array, " batch"],
    config: ACTConfig,
) -> Float[Array, " batch"] | None:
    """What q_continue should be: the best Q of the next step, bootstrapped."""
    if not config.continue_loss or config.max_steps == 1:
        return None
    following = model.predict(model.refine(latents, x))
    best = jnp.maximum(following.q_halt, following.q_continue)
    value = jnp.where(steps >= config.max_steps, following.q_halt, best)
    return jax.lax.stop_gradient(jax.nn.sigmoid(value))


def _count(
    carry: Carry, losses: Parts, scores: Parts, active: Bool[Array, " batch"]
) -> Metrics:
    """Metrics: losses of the active rows, scores of those that have halted."""
    has_labels = jnp.any(carry.puzzle.labels != IGNORE, axis=-1)
    scored = active & carry.halted & has_labels
    scores = {**scores, "steps": carry.steps}
    return metrics(losses, scores, active=active, scored=scored)
