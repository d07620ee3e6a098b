"""What a model says after each supervision step, not only after the last."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from configs import ACTConfig
from data.puzzles.dataset import Puzzle
from trm.act import init_carry, refill, wants_to_halt
from trm.model import TRM
from trm.noise import fold, puzzle_keys
from trm.recursion import Latents


class Trace(NamedTuple):
    """Answers forming: JAX arrays in the model, NumPy arrays outside."""

    answers: Int[Any, "steps batch seq"]
    """The likeliest token of each cell."""

    q_halt: Float[Any, "steps batch"]
    """Probability that the answer is right, as the halting head has it."""

    halts: Bool[Any, "steps batch"]
    """Whether the rule of training would stop here."""


def trace(
    model: TRM,
    rows: Float[jax.Array, "batch width"],
    puzzle: Puzzle,
    config: ACTConfig,
    *,
    steps: int,
) -> Trace:
    """The answers after 1 .. `steps` supervision steps, more than in training if asked.

    A variant with noise draws the same as in `act.solve`.

    Args:
        model: cast.
        rows: the puzzle table's rows of `puzzle`.
        puzzle: a batch; its labels do not matter.
        config: the halting rule.
        steps: to make, whether or not a row wants to halt.
    """
    model = jax.tree.map(lambda w: w.astype(model.compute_type), model)
    batch, seq = puzzle.inputs.shape
    carry = refill(model, init_carry(model, batch, seq), puzzle)
    x, keys = model.embed(puzzle.inputs, rows), puzzle_keys(puzzle.inputs)

    def step(latents: Latents, number: Int[jax.Array, ""]) -> tuple[Latents, Trace]:
        latents = model.refine(latents, x, fold(keys, number))
        prediction = model.predict(latents)
        answers = jnp.argmax(prediction.logits, axis=-1).astype(jnp.int32)
        probability = jax.nn.sigmoid(prediction.q_halt)
        return latents, Trace(answers, probability, wants_to_halt(prediction, config))

    latents = model.start(carry.latents, carry.steps == 0, keys)
    return jax.lax.scan(step, latents, jnp.arange(steps))[1]


def in_parts(part: Callable[[Puzzle], Trace], puzzles: Puzzle, at_once: int) -> Trace:
    """The traces of many puzzles as NumPy arrays, so many at once.

    A last part of fewer puzzles is filled up, or else it would be compiled again.
    """
    at_once, told = min(len(puzzles.inputs), at_once), []
    for first in range(0, len(puzzles.inputs), at_once):
        some = [array[first : first + at_once] for array in puzzles]
        full = (np.resize(array, (at_once, *array.shape[1:])) for array in some)
        found = jax.device_get(part(Puzzle(*full)))
        told.append([array[:, : len(some[0])] for array in found])
    return Trace(*(np.concatenate(arrays, 1) for arrays in zip(*told, strict=True)))
