"""Train a TRM on puzzles: the functions of its experiment (`train/trm.py`).

Three hooks let an experiment change what is learned: `halting`, when a row stops;
`puzzle_loss`, losses and scores of an answer; `extra`, losses of a step.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from configs import ACTConfig
from data.puzzles.dataset import IGNORE
from gpt.metrics import Loss, Metrics
from trm.act import Carry, FlowCarry, Halting, halting_of, halts, select_rows
from trm.evaluation import Effort, work
from trm.loss import Parts, PuzzleLoss, metrics
from trm.loss import puzzle_loss as official_loss
from trm.model import TRM, Prediction
from trm.recursion import Latents
from trm.winner import compete

NO_ROW = jnp.iinfo(jnp.int32).max
"""An id beyond every puzzle table."""

Extra = Callable[[TRM, Carry, Latents, Prediction], Parts]
"""Takes the model, the rows before a step, their latents and predictions after it;
returns losses of each row by name."""


def row_ids(carry: Carry) -> Int[Array, " batch"]:
    """Return the rows of the puzzle table that the puzzles under way look up."""
    return jnp.where(carry.halted, NO_ROW, carry.puzzle.puzzle_id)


def supervision_loss(
    model: TRM,
    rows: Float[Array, "batch width"],
    carry: Carry,
    keys: Key[Array, " batch"],
    *,
    config: ACTConfig,
    halting: Halting | None = None,
    puzzle_loss: PuzzleLoss | None = None,
    extra: Extra = lambda model, carry, latents, prediction: {},
) -> Loss:
    """Make one supervision step: summed loss, rows, the next carry, the metrics.

    Rows that had halted before it are unchanged and count for nothing.

    Args:
        model: cast.
        rows: the puzzle table's rows of `carry.puzzle`.
        carry: refilled.
        keys: one for each row, for exploration and for a variant with noise.
        config: halting and losses.
        halting: rule; None for the one of `config`.
        puzzle_loss: losses and scores of a puzzle; None: by `config`.
        extra: losses to add to it.
    """
    halting = halting or halting_of(config)
    puzzle_loss = puzzle_loss or partial(official_loss, config=config)
    labels, fresh = carry.puzzle.labels, carry.steps == 0
    x = model.embed(carry.puzzle.inputs, rows)
    follow = lambda logits: {}
    if model.flow is not None and isinstance(carry, FlowCarry):
        x, follow = model.flow.learn(
            x, carry.path, carry.puzzle, carry.steps, keys, config
        )
    latents, rejoin = carry.latents, lambda latents: latents
    if config.chains > 1:
        losses_of = jax.vmap(puzzle_loss, in_axes=(0, 0, None))
        lm_loss = lambda said: losses_of(said, labels, None)[1]["lm_loss"]
        latents, rejoin = compete(model, latents, x, fresh, keys, lm_loss)
    latents = model.start(latents, fresh, keys)
    latents = model.refine(latents, x, keys)
    prediction = model.predict(latents)
    more = extra(model, carry, latents, prediction)
    latents = jax.lax.stop_gradient(latents)

    active = ~carry.halted
    steps = carry.steps + 1
    stop, memory = jax.lax.stop_gradient(halting.rule(prediction, carry.memory))
    halted = halts(stop, steps, keys, config)
    stepped = replace(
        carry,
        latents=rejoin(latents),
        steps=steps,
        halted=halted,
        memory=memory,
        **follow(prediction.logits),
    )
    q_target = _continue_target(model, latents, x, steps, config)
    loss, losses, scores = jax.vmap(puzzle_loss)(prediction, labels, q_target)
    for value in more.values():
        loss += value
    losses, scored = losses | more, active & halted
    counted = _count(losses, scores, labels, steps=steps, active=active, scored=scored)
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
    halting: Halting | None = None,
    puzzle_loss: PuzzleLoss | None = None,
) -> tuple[Metrics, Prediction]:
    """Return metrics and predictions after all supervision steps.

    Rows without labels are padding and count for nothing.

    Args:
        model: cast.
        rows: the puzzle table's rows of `carry.puzzle`.
        carry: freshly refilled.
        config: `max_steps`, halting and losses.
        early: stop rows by the rule; else all make `max_steps` (official).
        halting: rule; None for the one of `config`.
        puzzle_loss: losses and scores of a puzzle; None: by `config`.
    """
    batch, labels = len(rows), carry.puzzle.labels
    done, _ = work(
        model,
        rows,
        carry.puzzle,
        jnp.arange(batch, dtype=jnp.int32),
        effort=Effort(steps=config.max_steps, early=early),
        halting=halting or halting_of(config),
        rows=batch,
    )
    puzzle_loss = puzzle_loss or partial(official_loss, config=config)
    _, losses, scores = jax.vmap(puzzle_loss)(done.prediction, labels, None)
    real = jnp.any(labels != IGNORE, axis=-1)
    counted = _count(losses, scores, labels, steps=done.steps, active=real, scored=real)
    return counted, done.prediction


def _continue_target(
    model: TRM,
    latents: Latents,
    x: Float[Array, "batch length dim"],
    steps: Int[Array, " batch"],
    config: ACTConfig,
) -> Float[Array, " batch"] | None:
    """Return the target of q_continue: the best Q of the next step, bootstrapped."""
    if not config.continue_loss or config.max_steps == 1:
        return None
    following = model.predict(model.refine(latents, x))
    best = jnp.maximum(following.q_halt, following.q_continue)
    value = jnp.where(steps >= config.max_steps, following.q_halt, best)
    return jax.lax.stop_gradient(jax.nn.sigmoid(value))


def _count(
    losses: Parts,
    scores: Parts,
    labels: Int[Array, "batch seq"],
    *,
    steps: Int[Array, " batch"],
    active: Bool[Array, " batch"],
    scored: Bool[Array, " batch"],
) -> Metrics:
    """Sum losses of active rows; scores and steps of scored rows with labels."""
    scored &= jnp.any(labels != IGNORE, axis=-1)
    return metrics(losses, {**scores, "steps": steps}, active=active, scored=scored)
