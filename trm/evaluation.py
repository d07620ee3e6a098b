"""Supervision steps without gradient: one engine for every evaluation.

A device has a queue of puzzles and a number of rows. A row takes an item of the queue
(a puzzle, or one of several rollouts of it), makes supervision steps until it halts,
and takes the next item. All of it is one `while_loop`. Three callers differ in effort
and in what they note after each step: evaluation in training notes nothing
(`trm/objective.py`), `train.evaluate` scores, and `trm.solve` boards (`answer`).

The answer to an item depends on nothing but the item: not on the row, the queue, the
device or other items (except for rounding in products of other shapes).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key, PyTree, Shaped

from data.puzzles.dataset import Puzzle
from data.puzzles.symmetry import Symmetry
from trm.act import Halting, select_rows
from trm.flow import Trajectory
from trm.loss import PuzzleLoss
from trm.model import TRM, Prediction
from trm.noise import fold, puzzle_keys
from trm.rollouts import add_noise, parents, see, turn_back


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Work spent on each puzzle."""

    steps: int
    """Most supervision steps; may exceed the steps of training."""

    early: bool = False
    """Halt by the rule of training; else make all steps (official)."""

    refill: bool = False
    """Give a row that has halted the next item at once; else when all rows have."""

    rollouts: int = 1
    """Items of a puzzle."""

    sigma: float = 0.0
    """Standard deviation of the noise added to the scratchpad before each step."""

    particles: bool = False
    """Resample the rollouts of a puzzle before each step. Not with `early`; rows are a
    multiple of the rollouts, so that those of a puzzle are in work together."""

    seed: int = 0
    """Seed of the noise."""


class Rows(eqx.Module):
    """Items in work. Leading axis of rows on every leaf."""

    item: Int32[Array, " rows"]
    running: Bool[Array, " rows"]
    steps: Int32[Array, " rows"]
    keys: Key[Array, " rows"]
    """For the noise of the variant (EqR)."""

    x: Float[Array, "rows length dim"]
    """The embedded question."""

    latents: PyTree[Float[Array, "rows length dim"]]

    prediction: Prediction
    """After the item's last step; zeros before its first."""

    wanted: Bool[Array, " rows"]
    """Rows that the halting rule would stop."""

    memory: PyTree[Array]
    """Of the halting rule."""

    flow: Trajectory | None = None
    """Of a looped flow."""

    view: Symmetry | None = None
    """Symmetry under which the row sees its puzzle; predictions are turned back."""


Note = Callable[[Any, Rows, Rows], Any]
"""Takes notes and the rows before and after a step; returns the notes with the step."""


def work(
    model: TRM,
    table_rows: Float[Array, "puzzles width"],
    puzzles: Puzzle,
    numbers: Int32[Array, " puzzles"],
    *,
    effort: Effort,
    halting: Halting,
    rows: int,
    views: Symmetry | None = None,
    note: Note = lambda notes, before, after: notes,
    notes: Callable[[Rows], PyTree] = lambda first: (),
) -> tuple[Rows, PyTree]:
    """Work through a queue of puzzles.

    Args:
        model: cast.
        table_rows: the puzzle table's rows of `puzzles`.
        puzzles: the queue; item `i` is rollout `i % K` of puzzle `i // K`.
        numbers: one for each puzzle, to draw its noise from; -1 for padding, which is
            at the end and is left out.
        effort: steps, halting, rollouts.
        halting: the rule for `effort.early`.
        rows: items in work at once; they take up the memory.
        views: a symmetry for each of the K rollouts; None: all see the puzzle as it is.
        note: called after each step.
        notes: makes the first notes from the first rows.

    Returns:
        The rows after their last steps, and the notes. With as many rows as items, row
        `i` holds item `i`.
    """
    model = jax.tree.map(lambda w: w.astype(model.compute_type), model)
    copies = effort.rollouts
    items = copies * numbers.shape[0]  # symbolic in `train.export`
    count = copies * jnp.sum(numbers >= 0, dtype=jnp.int32)

    def begin(item: Int32[Array, " rows"]) -> Rows:
        inputs, questions = (a[item // copies] for a in (puzzles.inputs, table_rows))
        keys = own_keys(inputs, item % copies, effort.seed)
        view = jax.tree.map(lambda a: jnp.asarray(a)[item % copies], views)
        if view is not None:
            inputs = see(inputs, view)
        fresh = new_rows(model, questions, inputs, keys, halting.memory)
        return replace(fresh, item=item, running=item < count, view=view)

    def step(loop: tuple[Rows, PyTree]) -> tuple[Rows, PyTree]:
        before, notes = loop
        if effort.particles:
            before = resample(before, numbers[before.item // copies], effort)
        latents = before.latents
        if effort.sigma > 0.0:
            number, rollout = numbers[before.item // copies], before.item % copies
            keys = noise_keys(effort.seed, number, rollout, before.steps)
            latents = add_noise(model.recursion, latents, keys, effort.sigma)
        after = supervise(model, before, latents, effort, halting)
        notes = note(notes, before, after)
        if items <= rows:  # all are in work
            return after, notes
        free = ~after.running
        if not effort.refill:
            free &= jnp.all(free)
        # Items are taken in order, so the next is the largest so far plus one.
        following = jnp.max(after.item) + jnp.cumsum(free, dtype=jnp.int32)
        return select_rows(free & (following < count), begin(following), after), notes

    first = begin(jnp.arange(min(rows, items), dtype=jnp.int32))
    start = first, notes(first)
    if items <= rows and not effort.early:  # the same loop, of a length known before
        return jax.lax.fori_loop(0, effort.steps, lambda _, loop: step(loop), start)
    return jax.lax.while_loop(lambda loop: jnp.any(loop[0].running), step, start)


def new_rows(
    model: TRM,
    table_rows: Float[Array, "rows width"],
    inputs: Int32[Array, "rows seq"],
    keys: Key[Array, " rows"],
    memory: PyTree[Array],
) -> Rows:
    """Return rows before their first step; `item` and `running` are still to be set."""
    size, seq = inputs.shape
    spread = lambda *shape: lambda a: jnp.broadcast_to(a, (size, *shape, *a.shape))
    latents = jax.tree.map(spread(model.length(seq)), model.recursion.init())
    latents = model.start(latents, jnp.ones(size, bool), keys)
    shapes = jax.eval_shape(model.predict, latents)
    return Rows(
        item=jnp.zeros(size, jnp.int32),
        running=jnp.zeros(size, bool),
        steps=jnp.zeros(size, jnp.int32),
        keys=keys,
        x=model.embed(inputs, table_rows),
        latents=latents,
        prediction=jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes),
        wanted=jnp.zeros(size, bool),
        memory=jax.tree.map(spread(), memory),
        flow=None if model.flow is None else model.flow.begin(inputs, keys),
    )


def supervise(
    model: TRM, before: Rows, latents: PyTree, effort: Effort, halting: Halting
) -> Rows:
    """Make one supervision step from `latents`; rows that do not run are unchanged."""
    x, keys = before.x, fold(before.keys, before.steps)
    follow = lambda logits: None
    if model.flow is not None and before.flow is not None:
        x, follow = model.flow.sample(x, before.flow, before.steps, effort.steps, keys)
    latents = model.refine(latents, x, keys)
    prediction = model.predict(latents)
    flow = follow(prediction.logits)
    if before.view is not None:
        logits = turn_back(prediction.logits, before.view)
        prediction = replace(prediction, logits=logits)
    wanted, memory = halting.rule(prediction, before.memory)
    steps = before.steps + 1
    halted = (steps >= effort.steps) | (wanted & effort.early)
    after = Rows(
        item=before.item,
        running=~halted,
        steps=steps,
        keys=before.keys,
        x=before.x,
        latents=latents,
        prediction=prediction,
        wanted=wanted,
        memory=memory,
        view=before.view,
        flow=flow,
    )
    return select_rows(before.running, after, before)


def resample(rows: Rows, numbers: Int32[Array, " rows"], effort: Effort) -> Rows:
    """Replace rollouts of each puzzle by others of it; see `parents`.

    A fresh row has a `q_halt` of 0, as all of its puzzle, and remains.
    """
    copies = effort.rollouts
    last = jnp.full_like(numbers, copies)  # no rollout's own key
    keys = noise_keys(effort.seed, numbers, last, rows.steps)[::copies]
    drawn = jax.vmap(parents)(rows.prediction.q_halt.reshape(-1, copies), keys)
    first = jnp.arange(0, len(numbers), copies, dtype=jnp.int32)
    parent = (first[:, None] + drawn).reshape(-1)
    copied = jax.tree.map(lambda a: a[parent], rows)
    return replace(copied, item=rows.item, keys=rows.keys)


class Answers(eqx.Module):
    """Answers to a queue. Item `i` is rollout `i % K` of puzzle `i // K`.

    Arrays by step hold zeros after an item has halted.
    """

    tokens: Int32[Array, "items seq"]
    sure: Float[Array, "items seq"]
    """Probability of each token."""

    steps: Int32[Array, " items"]

    wanted: Bool[Array, "items steps"]
    """Steps at which the halting rule would stop."""

    q_halt: Float[Array, "items steps"]

    moved: Float[Array, "items steps"]
    """Change of the logits of a cell by the step (norm, mean over cells); 0 after the
    first."""

    values: dict[str, Shaped[Array, "items steps"]]
    """Losses and scores of `puzzle_loss`."""

    boards: Int32[Array, "items steps seq"] | None
    """Answers after each step, if they were asked for."""

    sweeps: Int32[Array, " devices"]
    """Steps that the rows of each device made together, idle rows included."""


def answer(
    model: TRM,
    table_rows: Float[Array, "puzzles width"],
    puzzles: Puzzle,
    numbers: Int32[Array, " puzzles"],
    *,
    effort: Effort,
    halting: Halting,
    puzzle_loss: PuzzleLoss,
    rows: int,
    views: Symmetry | None = None,
    boards: bool = False,
) -> Answers:
    """Answer a queue of puzzles, each by `effort.rollouts` items; see `work`.

    Args:
        model: cast.
        table_rows: the puzzle table's rows of `puzzles`.
        puzzles: the queue.
        numbers: one for each puzzle; -1 for padding, which gets no answer.
        effort: steps, halting, rollouts.
        halting: the rule for `effort.early`.
        puzzle_loss: losses and scores of a puzzle.
        rows: items in work at once; they take up the memory.
        views: a symmetry for each rollout; None: all see the puzzle as it is.
        boards: note the answer after each step.
    """
    copies, (size, seq) = effort.rollouts, puzzles.inputs.shape
    items = size * copies

    def start(first: Rows) -> Answers:
        steps = lambda a: jnp.zeros((items, effort.steps, *a.shape[1:]), a.dtype)
        tokens = jnp.zeros((items, seq), jnp.int32)
        return Answers(
            tokens=tokens,
            sure=jnp.zeros((items, seq)),
            steps=jnp.zeros(items, jnp.int32),
            wanted=steps(first.wanted),
            q_halt=steps(first.prediction.q_halt),
            moved=steps(first.prediction.q_halt),
            values=jax.tree.map(steps, jax.eval_shape(score, first)),
            boards=steps(tokens) if boards else None,
            sweeps=jnp.zeros(1, jnp.int32),
        )

    def score(rows: Rows) -> dict[str, Array]:
        one = lambda prediction, labels: puzzle_loss(prediction, labels, None)[1:]
        labels = puzzles.labels[rows.item // copies]
        losses, scores = jax.vmap(one)(rows.prediction, labels)
        return losses | scores

    def note(answers: Answers, before: Rows, after: Rows) -> Answers:
        item = jnp.where(before.running, before.item, items)  # beyond the end: dropped
        put = lambda old, new: old.at[item].set(new, mode="drop")
        by_step = lambda old, new: old.at[item, before.steps].set(new, mode="drop")
        logits = after.prediction.logits.astype(jnp.float32)
        tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        moved = distance(before.prediction.logits, after.prediction.logits)
        return Answers(
            tokens=put(answers.tokens, tokens),
            sure=put(answers.sure, jnp.max(jax.nn.softmax(logits), axis=-1)),
            steps=put(answers.steps, after.steps),
            wanted=by_step(answers.wanted, after.wanted),
            q_halt=by_step(answers.q_halt, after.prediction.q_halt),
            moved=by_step(answers.moved, jnp.where(before.steps > 0, moved, 0.0)),
            values=jax.tree.map(by_step, answers.values, score(after)),
            boards=None if answers.boards is None else by_step(answers.boards, tokens),
            sweeps=answers.sweeps + 1,
        )

    _, answers = work(
        model,
        table_rows,
        puzzles,
        numbers,
        effort=effort,
        halting=halting,
        rows=rows,
        views=views,
        note=note,
        notes=start,
    )
    return answers


def noise_keys(
    seed: int,
    numbers: Int32[Array, " rows"],
    rollouts: Int32[Array, " rows"],
    steps: Int32[Array, " rows"],
) -> Key[Array, " rows"]:
    """Return a key for each step of each rollout of each puzzle."""
    keys = jnp.broadcast_to(jax.random.key(seed), numbers.shape)
    return fold(fold(fold(keys, numbers), rollouts), steps)


def own_keys(
    inputs: Int32[Array, "rows seq"], rollouts: Int32[Array, " rows"], seed: int
) -> Key[Array, " rows"]:
    """Return keys for the noise of a variant (EqR), different for each rollout.

    The first rollout has the keys of the puzzle, whatever the seed.
    """
    keys = puzzle_keys(inputs)
    others = fold(fold(keys, rollouts), seed)
    return jnp.where(rollouts == 0, keys, others)


def distance(
    before: Float[Array, "rows seq vocab"], after: Float[Array, "rows seq vocab"]
) -> Float[Array, " rows"]:
    """Return the norm of a cell's change of logits, mean over the cells."""
    difference = after.astype(jnp.float32) - before.astype(jnp.float32)
    return jnp.mean(jnp.linalg.norm(difference, axis=-1), axis=-1)
