"""Phases of a run: what its steps share for a while, and change between.

A run is a sequence of phases, each with a program of its own, compiled once. Which one
a step is in is a function of the step alone, so that a run resumes exactly at any.
"""

from dataclasses import dataclass

from train.gradients import StepConfig
from train.objective import Objective
from train.optim import Optimizer
from train.speed import Rates


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
