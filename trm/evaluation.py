"""Answers to a queue of puzzles: one engine for every way to evaluate.

A device has a queue of puzzles and some rows to work on them. A row takes an item of
the queue (a puzzle, or one of several rollouts of it), makes supervision steps until it
halts, and takes another. All of this is one `while_loop`: the host sees only answers.

What comes out for an item depends on nothing but the item: not on the row, the queue,
the device or the other items (but for the rounding of products of other shapes).
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key, PyTree

from configs import ACTConfig
from data.puzzles.dataset import Puzzle
from trm.act import select_rows, wants_to_halt
from trm.loss import puzzle_loss
from trm.model import TRM
from trm.noise import fold, puzzle_keys
from trm.recursion import Latents
from trm.rollouts import add_noise


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much thought each puzzle gets."""

    steps: int
    """Most supervision steps; may be more than in training."""

    early: bool = False
    """Whether an item halts by the rule of training, or makes all steps (official)."""

    refill: bool = False
    """Whether a row that has halted goes on at once, or waits for all the others."""

    rollouts: int = 1
    """Items that a puzzle makes."""

    sigma: float = 0.0
    """Standard deviation of the noise on the scratchpad before each step."""

    seed: int = 0
    """Of the noise."""


class StepScores(eqx.Module):
    """What could be said of an item after each step; zero after it has halted."""

    q_halt: Float[Array, "items steps"]
    exact: Bool[Array, "items steps"]
    accuracy: Float[Array, "items steps"]
    lm_loss: Float[Array, "items steps"]

    moved: Float[Array, "items steps"]
    """How much the step has changed the logits of a cell (norm, mean over the cells); 0
    after the first."""


class Answers(eqx.Module):
    """Answers to a queue. Item `i` is rollout `i % K` of puzzle `i // K`."""

    tokens: Int32[Array, "items seq"]
    steps: Int32[Array, " items"]

    wanted: Bool[Array, " items"]
    """Whether the item halted because the rule says so."""

    by_step: StepScores

    sweeps: Int32[Array, " devices"]
    """Steps that the rows of each device have made together, idle ones too."""


class Rows(eqx.Module):
    """What works on a queue. Leading axis of the rows on every leaf but the last."""

    item: Int32[Array, " rows"]
    running: Bool[Array, " rows"]
    steps: Int32[Array, " rows"]
    latents: PyTree[Float[Array, "rows length dim"]]
    logits: Float[Array, "rows seq vocab"]
    taken: Int32[Array, ""]
    """Items taken so far, by all rows."""


def empty_rows(model: TRM, puzzles: Puzzle, rows: int) -> Rows:
    """Rows of which none is running, with the latents of a fresh puzzle."""
    seq = puzzles.inputs.shape[-1]
    shape = lambda a: (rows, model.length(seq), a.shape[-1])
    spread = lambda a: jnp.broadcast_to(a, shape(a))
    latents = jax.tree.map(spread, model.recursion.init())
    said = jax.eval_shape(model.predict, latents)
    return Rows(
        item=jnp.zeros(rows, jnp.int32),
        running=jnp.zeros(rows, bool),
        steps=jnp.zeros(rows, jnp.int32),
        latents=latents,
        logits=jnp.zeros(said.logits.shape, said.logits.dtype),
        taken=jnp.zeros((), jnp.int32),
    )


def take(rows: Rows, fresh: Latents, count: Int32[Array, ""], refill: bool) -> Rows:
    """Rows that are not running start on the next of `count` items, in their order.

    Args:
        rows: of which some may be running.
        fresh: latents of a fresh puzzle.
        count: items in the queue.
        refill: whether they start at once, or when no row is running.
    """
    free = ~rows.running
    if not refill:
        free &= jnp.all(free)
    offered = rows.taken + jnp.cumsum(free, dtype=jnp.int32) - 1
    starts = free & (offered < count)
    return Rows(
        item=jnp.where(starts, offered, rows.item),
        running=rows.running | starts,
        steps=jnp.where(starts, 0, rows.steps),
        latents=select_rows(starts, fresh, rows.latents),
        logits=rows.logits,
        taken=rows.taken + jnp.sum(starts, dtype=jnp.int32),
    )


def answer(
    model: TRM,
    table_rows: Float[Array, "puzzles width"],
    puzzles: Puzzle,
    numbers: Int32[Array, " puzzles"],
    *,
    effort: Effort,
    act: ACTConfig,
    rows: int,
) -> Answers:
    """The answers to a queue of puzzles, each by `effort.rollouts` items.

    Args:
        model: cast.
        table_rows: theirs of the puzzle table.
        puzzles: the queue.
        numbers: of the puzzles, from which their noise is drawn; -1 of padding, which
            stands at the end and gets no answer.
        effort: steps, halting, rollouts.
        act: halting rule and loss.
        rows: items in work at once, which take up the memory.
    """
    model = jax.tree.map(lambda w: w.astype(model.compute_type), model)
    copies, (size, seq) = effort.rollouts, puzzles.inputs.shape
    items = size * copies
    count = copies * jnp.sum(numbers >= 0, dtype=jnp.int32)
    fresh = model.recursion.init()
    zeros = lambda kind: jnp.zeros((items, effort.steps), kind)
    floats = zeros(jnp.float32)
    answers = Answers(
        tokens=jnp.zeros((items, seq), jnp.int32),
        steps=jnp.zeros(items, jnp.int32),
        wanted=jnp.zeros(items, bool),
        by_step=StepScores(floats, zeros(bool), floats, floats, floats),
        sweeps=jnp.zeros(1, jnp.int32),
    )

    def step(loop: tuple[Rows, Answers]) -> tuple[Rows, Answers]:
        rows, answers = loop
        at = rows.item // copies
        puzzle = jax.tree.map(lambda a: a[at], puzzles)
        x = model.embed(puzzle.inputs, table_rows[at])
        rollout = rows.item % copies
        own = own_keys(puzzle.inputs, rollout, effort.seed)
        latents = model.start(rows.latents, rows.steps == 0, own)
        if effort.sigma > 0.0:
            keys = noise_keys(effort.seed, numbers[at], rollout, rows.steps)
            latents = add_noise(model.recursion, latents, keys, effort.sigma)
        latents = model.refine(latents, x, fold(own, rows.steps))
        prediction = model.predict(latents)
        steps = rows.steps + 1
        wanted = wants_to_halt(prediction, act) & effort.early
        halted = wanted | (steps >= effort.steps)
        moved = distance(rows.logits, prediction.logits)
        score = lambda said, labels: puzzle_loss(said, labels, None, act)[1:]
        losses, scores = jax.vmap(score)(prediction, puzzle.labels)

        where = jnp.where(rows.running, rows.item, items)  # beyond the end: dropped
        put = lambda old, new: old.at[where].set(new, mode="drop")
        note = lambda old, new: old.at[where, rows.steps].set(new, mode="drop")
        before = answers.by_step
        answers = Answers(
            tokens=put(answers.tokens, jnp.argmax(prediction.logits, -1)),
            steps=put(answers.steps, steps),
            wanted=put(answers.wanted, wanted),
            by_step=StepScores(
                note(before.q_halt, prediction.q_halt),
                note(before.exact, scores["exact_accuracy"]),
                note(before.accuracy, scores["accuracy"]),
                note(before.lm_loss, losses["lm_loss"]),
                note(before.moved, jnp.where(rows.steps > 0, moved, 0.0)),
            ),
            sweeps=answers.sweeps + 1,
        )
        running = rows.running & ~halted
        rows = Rows(rows.item, running, steps, latents, prediction.logits, rows.taken)
        return take(rows, fresh, count, effort.refill), answers

    start = empty_rows(model, puzzles, min(rows, items))
    start = take(start, fresh, count, effort.refill)
    _, answers = jax.lax.while_loop(
        lambda loop: jnp.any(loop[0].running), step, (start, answers)
    )
    return answers


def noise_keys(
    seed: int,
    numbers: Int32[Array, " rows"],
    rollouts: Int32[Array, " rows"],
    steps: Int32[Array, " rows"],
) -> Key[Array, " rows"]:
    """A key for each step of each rollout of each puzzle."""
    keys = jnp.broadcast_to(jax.random.key(seed), numbers.shape)
    return fold(fold(fold(keys, numbers), rollouts), steps)


def own_keys(
    inputs: Int32[Array, "rows seq"], rollouts: Int32[Array, " rows"], seed: int
) -> Key[Array, " rows"]:
    """Keys for the noise that a variant makes itself (EqR): others for each rollout.

    The first rollout has those of `trm.act.solve`, so that it answers as in training.
    """
    keys = puzzle_keys(inputs)
    others = fold(fold(keys, rollouts), seed)
    return jnp.where(rollouts == 0, keys, others)


def distance(
    before: Float[Array, "rows seq vocab"], after: Float[Array, "rows seq vocab"]
) -> Float[Array, " rows"]:
    """Norm of the difference of the logits of a cell, mean over the cells."""
    difference = after.astype(jnp.float32) - before.astype(jnp.float32)
    return jnp.mean(jnp.linalg.norm(difference, axis=-1), axis=-1)
