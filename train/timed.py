"""A run that has to end in time: `--config.run.minutes`."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Literal

import jax

from configs import ceil_div, require
from train.budget import EACH, FIRST, Budget, Speed, new_length, of_first_process
from train.evaluation import Evaluation
from train.experiment import AbstractExperiment
from train.running import Run, slow_warmup
from train.runs.checkpoint import Checkpoints
from train.runs.run_dir import RunDir
from train.state import TrainState


class TimedRun(Run):
    """A run whose length follows its speed; resumed, it keeps its length at first."""

    def __init__(
        self,
        experiment: AbstractExperiment,
        directory: RunDir,
        checkpoints: Checkpoints,
        stack: ExitStack,
    ):
        super().__init__(experiment, directory, checkpoints, stack)
        earlier, minutes = checkpoints.settings, experiment.config.run.minutes
        record = earlier.get("recorded", {})
        self._check = 0
        self._saving: float | None = None  # seconds of a save
        self._rate: float | None = None  # examples a second of an evaluation
        self._budget = Budget(60 * minutes, record.get("seconds", 0.0))
        call = self._config.steps_per_call
        total = max(self._total, 10 * call)  # enough to measure the speed
        if "steps" in record:
            longer = max(minutes / (earlier["run"]["minutes"] or minutes), 1.0)
            total = ceil_div(math.ceil(record["steps"] * longer), call) * call
        self._set_length(total)

    def _about_length(self) -> Iterator[str]:
        used, minutes = self._budget.used / 60, self._config.run.minutes
        yield f"{used:.1f} of {minutes:g} minutes are used; the length will change."

    def save(self, state: TrainState) -> None:
        """Start saving a state, unless it is saved already, with the time used."""
        self._directory.recorded["seconds"] = round(self._budget.used, 1)
        super().save(state)

    def _recorded(
        self, state: TrainState, stop: Callable[[], bool]
    ) -> Evaluation | None:
        evaluation = super()._recorded(state, stop)
        if evaluation is not None:
            self._rate = evaluation.rate
        return evaluation

    def _set_length(self, total: int) -> None:
        """Give the run another length."""
        self.experiment = self.experiment.of_length(total)
        self._directory.recorded["steps"] = total

    def gets_new_length(self, done: int, state: TrainState) -> bool:
        """Change the length if the run would not end in time; return if it changed.

        Collective.

        Raises:
            UserError: if the time is too short for the last evaluation.
        """
        budget = self._budget
        if not self._check <= done < self._total:
            return False
        jax.block_until_ready(state.step)
        call, every = self._config.steps_per_call, self.experiment.eval_every
        step = budget.step_seconds(done, self._log.paused)
        if math.isnan(step):  # the first steps are slower
            self._check = done + 4 * call
            return False
        wait = budget.left() - (1 - FIRST) * budget.seconds
        if wait > 0 and done + call < self._total:
            self._check = min(done + max(int(wait / step), call), self._total - call)
            return False
        if self._saving is None:
            self._saving = self._time_save(state)
        if self._rate is None and not self._recorded(state, self._interrupt.wanted):
            return False  # a signal
        left = budget.left()
        self._check = done + max(int(EACH * left / step), call)
        speed = Speed(
            left=left,
            step=step,
            evaluation=self._evaluation_seconds("between"),
            last=self._evaluation_seconds("last"),
            compiling=of_first_process(self._compiling),
        )
        minutes = budget.seconds / 60
        require(
            speed.last < budget.seconds / 2,
            f"The last evaluation may take at most half of `minutes`: it takes about "
            f"{speed.last / 60:.1f} of {minutes:g}. Evaluate less: "
            "`--config.eval.final-puzzles`, for a GPT `--config.eval.iters`.",
        )
        length = {"done": done, "total": self._total, "call": call, "every": every}
        total, follow = new_length(speed, budget.seconds, **length)
        if total == self._total:
            return False
        if follow:
            self._programs.clear()
        self._set_length(total)
        self._directory.write_config()
        self._log.terminal.total = total
        self._log.say(f"{left / 60:.1f} minutes are left: the run has {total:,} steps.")
        for line in slow_warmup(self.experiment):
            self._log.say(line)
        return True

    def _time_save(self, state: TrainState) -> float:
        """Save and return the seconds."""
        begin = time.monotonic()
        self.save(state)
        self._checkpoints.wait()
        return time.monotonic() - begin

    def _evaluation_seconds(self, when: Literal["between", "last"]) -> float:
        """Return the seconds of an evaluation and its save, by the last measurement."""
        assert self._saving is not None
        assert self._rate is not None
        examples = sum(split.examples for split in self.experiment.eval_splits(when))
        return of_first_process(self._saving + examples / self._rate)
