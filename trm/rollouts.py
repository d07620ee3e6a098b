"""Rollouts: several different attempts at a puzzle; one is chosen. No training.

Noise: a Gaussian is added to the scratchpad z, not to the answer y, before each
supervision step, so that attempts diverge and some leave a wrong answer. Source: arXiv
2605.19943 (PTRM), algorithm 1 and its published settings.

Symmetries: attempts see the puzzle with other names of the digits, say, and their
answers are turned back. Source: the tests of arXiv 2601.19085, whose way of choosing is
not published.

Particles: noisy attempts of a puzzle that look wrong are replaced by copies of better
ones between steps (`parents`).
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Key, PRNGKeyArray, PyTree

from configs import MOST_STEPS, require, require_not_negative, require_positive
from data.puzzles.symmetry import Symmetry
from trm.noise import draw, fold
from trm.recursion import AbstractRecursion, Latents

Choice = Literal["best_q", "mode", "residual", "first", "rules"]
"""The rollout to choose: the highest q_halt; the most frequent answer; the least change
in the last steps; the fewest steps to halt; an answer that keeps the rules."""

CHOICES: tuple[Choice, ...] = get_args(Choice)


@dataclass(frozen=True, kw_only=True)
class Published:
    """Settings of the paper."""

    sigma: float
    number: int
    steps: int
    select: Choice


PUBLISHED = {
    "sudoku": Published(sigma=0.3, number=100, steps=64, select="best_q"),
    "maze": Published(sigma=1.0, number=100, steps=16, select="mode"),
    "arc2": Published(sigma=0.2, number=25, steps=16, select="best_q"),
}
"""Sudoku-Extreme 87.3 -> 98.75 %, Maze-Hard 83.8 -> 86.7 %, ARC-AGI-2 pass@1 7.4 -> 8.5
%, all without training. Source: arXiv 2605.19943."""


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Several attempts at each puzzle."""

    preset: Literal["none", "sudoku", "maze", "arc2"] = "none"
    """Published defaults of the other options: sudoku: sigma 0.3, 100 rollouts, 64
    steps, best_q; maze: 1.0, 100, 16, mode; arc2: 0.2, 25, 16, best_q."""

    number: int | None = None
    """Attempts at each puzzle (K). Without a preset 1."""

    sigma: float | None = None
    """Standard deviation of the noise added to the scratchpad before each supervision
    step; latents have a root mean square of 1. Without a preset 0."""

    select: Choice | None = None
    """The attempt to choose. `best_q`: the highest q_halt. `mode`: the most frequent
    answer. `residual`: the least change in the last steps. `first`: the first to halt
    (not with `--mode fixed`). `rules`: an answer that keeps the rules of its kind, a
    search rather than a guess."""

    symmetries: bool = False
    """Every attempt but the first sees the puzzle under a random symmetry of its kind;
    its answer is turned back."""

    particles: bool = False
    """Resample the attempts of a puzzle between steps, by the halting head (only with
    `--mode fixed` and noise)."""

    rounds: int = 1
    """Clamp and restart: ask again at most this often, with the surest cell pinned,
    until an answer keeps the rules. Needs noise; reported apart."""

    seed: int = 0
    """Seed of the noise and of the symmetries."""

    def resolved(self) -> Published:
        """Return the settings with the preset's values where none is given.

        Raises:
            UserError: if a value is out of range.
        """
        plain = Published(sigma=0.0, number=1, steps=0, select="best_q")
        settings = PUBLISHED.get(self.preset, plain)
        given = {name: getattr(self, name) for name in ("number", "sigma", "select")}
        given = {name: value for name, value in given.items() if value is not None}
        settings = replace(settings, **given)
        require_positive(settings, "number", largest=MOST_STEPS)
        require_positive(self, "rounds", largest=MOST_STEPS)
        require_not_negative(self, "seed")
        require(
            0.0 <= settings.sigma < float("inf"),
            f"`sigma` must be finite and at least 0: got {settings.sigma}. Use 0.3.",
        )
        return settings


# -- on the devices --------------------------------------------------------------------


def scratchpads(recursion: AbstractRecursion, latents: Latents) -> PyTree[bool]:
    """Return True for each latent that is scratchpad: all but the answer.

    A single latent is both scratchpad and answer.
    """
    answered = recursion.answer(latents)
    alone = len(jax.tree.leaves(latents)) == 1
    return jax.tree.map(lambda leaf: alone or leaf is not answered, latents)


def add_noise(
    recursion: AbstractRecursion,
    latents: PyTree[Float[Array, "rows length dim"]],
    keys: Key[Array, " rows"],
    sigma: float,
) -> PyTree[Float[Array, "rows length dim"]]:
    """Add noise of standard deviation `sigma` to the scratchpads."""
    leaves, structure = jax.tree.flatten(latents)
    noisy = []
    flags = jax.tree.leaves(scratchpads(recursion, latents))
    for index, (leaf, flag) in enumerate(zip(leaves, flags, strict=True)):
        if flag:
            length, dim = leaf.shape[1:]
            drawn = draw(jax.random.normal, fold(keys, index), (length, dim))
            leaf = (leaf.astype(jnp.float32) + sigma * drawn).astype(leaf.dtype)
        noisy.append(leaf)
    return jax.tree.unflatten(structure, noisy)


def see(inputs: Int32[Array, "rows seq"], view: Symmetry) -> Int32[Array, "rows seq"]:
    """Return puzzles as seen under a symmetry each."""
    moved = jnp.take_along_axis(inputs, view.cells, axis=-1)
    return jnp.take_along_axis(view.tokens, moved, axis=-1)


def turn_back(
    logits: Float[Array, "rows seq vocab"], view: Symmetry
) -> Float[Array, "rows seq vocab"]:
    """Return the logits of the puzzles as they are: undo `see`."""
    one = lambda a, view: a.at[view.cells].set(a[:, view.tokens], unique_indices=True)
    return jax.vmap(one)(logits, view)


def parents(
    q_halt: Float[Array, " rollouts"], key: PRNGKeyArray
) -> Int32[Array, " rollouts"]:
    """Draw the rollout that each rollout of a puzzle is replaced by.

    Weights are the probabilities of the halting head. If the effective number of
    rollouts, `sum(w)^2 / sum(w^2)`, is less than half of them, they are drawn by
    systematic resampling; else all remain.

    Source: guided particles as in BIGR, arXiv 2605.25230. Its code is not public, so
    weights, threshold and way of drawing are the usual ones of particle filters.
    """
    number = len(q_halt)
    shares = jax.nn.softmax(jax.nn.log_sigmoid(q_halt))
    ticks = (jnp.arange(number) + jax.random.uniform(key)) / number
    drawn = jnp.searchsorted(jnp.cumsum(shares), ticks).astype(jnp.int32)
    few = 1.0 / jnp.sum(shares**2) < number / 2
    remain = jnp.arange(number, dtype=jnp.int32)
    return jnp.where(few, jnp.minimum(drawn, number - 1), remain)


# -- on the host -----------------------------------------------------------------------


def select(
    choice: Choice,
    tokens: Int[np.ndarray, "puzzles rollouts seq"],
    q_halt: Float[np.ndarray, "puzzles rollouts"],
    residual: Float[np.ndarray, "puzzles rollouts"],
    steps: Int[np.ndarray, "puzzles rollouts"],
    wanted: Bool[np.ndarray, "puzzles rollouts"],
    ruled: Bool[np.ndarray, "puzzles rollouts"],
) -> Int[np.ndarray, " puzzles"]:
    """Choose a rollout for each puzzle; the highest q_halt breaks ties.

    Args:
        choice: the rule.
        tokens: answers.
        q_halt: after the last step.
        residual: change of the logits in the last steps.
        steps: made by each rollout.
        wanted: rollouts that the halting rule stopped.
        ruled: rollouts whose answer keeps the rules.
    """
    match choice:
        case "best_q":
            score = q_halt
        case "mode":
            score = votes(tokens)
        case "residual":
            score = -residual
        case "first":
            score = np.where(wanted, -steps, -np.inf)
        case "rules":
            score = ruled
    first = np.broadcast_to(-np.arange(q_halt.shape[1]), q_halt.shape)
    return np.lexsort((first, q_halt, score))[:, -1]


def votes(
    tokens: Int[np.ndarray, "puzzles rollouts seq"],
) -> Int[np.ndarray, "puzzles rollouts"]:
    """Count, for each rollout, the rollouts of its puzzle with the same answer."""
    puzzles, rollouts, seq = tokens.shape
    flat = np.ascontiguousarray(tokens).reshape(puzzles * rollouts, seq)
    lines = flat.view(np.dtype((np.void, flat.dtype.itemsize * seq)))[:, 0]
    names = np.unique(lines, return_inverse=True)[1].reshape(puzzles, rollouts)
    return np.stack([(names == names[:, [k]]).sum(1) for k in range(rollouts)], axis=1)
