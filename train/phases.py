"""Phases of a run: what its steps share for a while, and change between.

A run is a sequence of phases, each with a program of its own, compiled once. Which one
a step is in is a function of the step alone, so that a run resumes exactly at any.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from configs import TrainGPT, TrainTRM, require
from train.gradients import StepConfig
from train.mesh import require_divides
from train.objective import Objective
from train.optim import Optimizer
from train.watch.speed import Rates


@dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
    """How the steps of one phase are made; two are the same only if they are one."""

    objective: Objective
    optimizer: Optimizer
    step_config: StepConfig

    rates: Rates = lambda rate: {}
    """What else to report of its steps, given the examples a second."""

    @property
    def examples(self) -> int:
        """Rows of one step."""
        return self.step_config.batch_size * self.step_config.supervision_steps


def require_batches(config: TrainTRM | TrainGPT, mesh: Mesh) -> None:
    """Raise `UserError` unless devices and slices divide every batch of a run."""
    for size in config.batches.values:
        require_divides(mesh, size)
        if isinstance(config, TrainTRM):
            local = size // mesh.size
            require(
                local % config.accumulation == 0,
                f"`accumulation` must divide the {local} puzzles of a device: got "
                f"{config.accumulation}. Use fewer slices or a larger batch.",
            )


def with_batch(rates: Rates, config: TrainTRM | TrainGPT, batch: int) -> Rates:
    """Rates that say the batch size too, if it changes during the run."""
    if not config.batch_schedule:
        return rates
    return lambda rate: rates(rate) | {"batch_size": batch}


def carried_into(phase: Phase, model: Any, carry: PyTree) -> PyTree:
    """The carry with as many rows as a phase has.

    More rows: the new ones have halted, and take a puzzle at once. Fewer: the last ones
    are dropped, and what they were working on is not gone on with.
    """
    config = phase.step_config
    model = phase.objective.cast(model, config.dtype)
    fresh = phase.objective.init_carry(model, config.batch_size)

    def resized(old: Array, new: Array) -> Array:
        kept = min(len(old), len(new))
        return jnp.concatenate([old[:kept], new[kept:]])

    return jax.tree.map(resized, carry, fresh)
