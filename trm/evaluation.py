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


class Trace(eqx.Module):
    """What could be said of an item after each step; zero after it has halted."""

    q_halt: Float[Array, "items steps"]
    exact: Bool[Array, "items steps"]
    accuracy: Float[Array, "items steps"]
    lm_loss: Float[Array, "items steps"]


class Answers(eqx.Module):
    """Answers to a queue. Item `i` is rollout `i % K` of puzzle `i // K`."""

    tokens: Int32[Array, "items seq"]
    steps: Int32[Array, " items"]

    residual: Float[Array, " items"]
    """Root mean square of how much the last step has changed the latents."""

    wanted: Bool[Array, " items"]
    """Whether the item halted because the rule says so."""

    trace: Trace

    sweeps: Int32[Array, " devices"]
    """Steps that the rows of each device have made together, idle ones too."""


class Rows(eqx.Module):
    """What works on a queue. Leading axis of the rows on every leaf but the last."""

    item: Int32[Array, " rows"]
    running: Bool[Array, " rows"]
    steps: Int32[Array, " rows"]
    latents: PyTree[Float[Array, "rows length dim"]]
    taken: Int32[Array, ""]
    """Items taken so far, by all rows."""


def empty_rows(fresh: Latents, rows: int, length: int) -> Rows:
    """Rows of which none is running, with the latents of a fresh puzzle."""
    spread = lambda a: jnp.broadcast_to(a, (rows, length, a.shape[-1]))
    return Rows(
        item=jnp.zeros(rows, jnp.int32),
        running=jnp.zeros(rows, bool),
        steps=jnp.zeros(rows, jnp.int32),
        latents=jax.tree.map(spread, fresh),
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
        taken=rows.taken + jnp.sum(starts, dtype=jnp.int32),
    )


def answer(
    model: TRM,
    table: Float[Array, "identifiers width"],
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
        table: the puzzle table.
        puzzles: the queue.
        numbers: of the puzzles, from which their noise and what a variant like EqR
            draws come; -1 of padding, which stands at the end and gets no answer.
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
        residual=jnp.zeros(items, jnp.float32),
        wanted=jnp.zeros(items, bool),
        trace=Trace(floats, zeros(bool), floats, floats),
        sweeps=jnp.zeros(1, jnp.int32),
    )

    def step(loop: tuple[Rows, Answers]) -> tuple[Rows, Answers]:
        rows, answers = loop
        at = rows.item // copies
        puzzle = jax.tree.map(lambda a: a[at], puzzles)
        x = model.embed(puzzle.inputs, table.at[puzzle.puzzle_id].get(mode="clip"))
        keys = noise_keys(effort.seed, numbers[at], rows.item % copies, rows.steps)
        last = model.start(rows.latents, rows.steps == 0, keys)
        before = last
        if effort.sigma > 0.0:
            before = add_noise(model.recursion, last, keys, effort.sigma)
        latents = model.refine(before, x, keys)
        prediction = model.predict(latents)
        steps = rows.steps + 1
        wanted = wants_to_halt(prediction, act) & effort.early
        halted = wanted | (steps >= effort.steps)
        score = lambda said, labels: puzzle_loss(said, labels, None, act.loss)[1:]
        losses, scores = jax.vmap(score)(prediction, puzzle.labels)

        where = jnp.where(rows.running, rows.item, items)  # beyond the end: dropped
        put = lambda old, new: old.at[where].set(new, mode="drop")
        note = lambda old, new: old.at[where, rows.steps].set(new, mode="drop")
        trace = answers.trace
        answers = Answers(
            tokens=put(answers.tokens, jnp.argmax(prediction.logits, -1)),
            steps=put(answers.steps, steps),
            residual=put(answers.residual, change(last, latents)),
            wanted=put(answers.wanted, wanted),
            trace=Trace(
                note(trace.q_halt, prediction.q_halt),
                note(trace.exact, scores["exact_accuracy"]),
                note(trace.accuracy, scores["accuracy"]),
                note(trace.lm_loss, losses["lm_loss"]),
            ),
            sweeps=answers.sweeps + 1,
        )
        running = rows.running & ~halted
        rows = Rows(rows.item, running, steps, latents, rows.taken)
        return take(rows, fresh, count, effort.refill), answers

    start = empty_rows(fresh, min(rows, items), model.prefix + seq)
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

    def one(number: Array, rollout: Array, step: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(seed), number)
        return jax.random.fold_in(jax.random.fold_in(key, rollout), step)

    return jax.vmap(one)(numbers, rollouts, steps)


def change(before: Latents, after: Latents) -> Float[Array, " rows"]:
    """Root mean square of the difference of latents, over all entries of a row."""
    square = lambda a, b: jnp.mean(
        (b.astype(jnp.float32) - a.astype(jnp.float32)) ** 2, axis=(1, 2)
    )
    squares = jax.tree.leaves(jax.tree.map(square, before, after))
    return jnp.sqrt(sum(squares[1:], squares[0]) / len(squares))
