"""The length of a run that has to end in time: `--config.run.minutes`.

At certain steps the run measures its speed, and gets another length where it would not
end in time. All processes use the times of the first, so all agree.
"""

import math
import time
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from configs import LARGEST

FIRST, EACH = 0.05, 0.1
"""Share of the time before the first new length, and share of the time left between
two checks."""

TOLERANCE = 0.01
"""Share of the time by which the end may be missed without a new length."""

COMPILING = 0.1
"""Largest share of the time left that compiling a new schedule may take."""


class Budget:
    """The time of a run.

    Args:
        seconds: of the whole run.
        used: by earlier commands of the run.
    """

    def __init__(self, seconds: float, used: float = 0.0):
        self.seconds, self._began = seconds, time.monotonic() - used
        self._mark = 0, math.nan

    @property
    def used(self) -> float:
        """Seconds used so far, by all commands of the run."""
        return time.monotonic() - self._began

    def left(self) -> float:
        """Return the seconds left. Collective."""
        return of_first_process(self.seconds - self.used)

    def step_seconds(self, done: int, paused: float) -> float:
        """Return the seconds of a step since the last call; nan at the first.

        Collective.

        Args:
            done: steps made, all of them computed.
            paused: seconds without training so far.
        """
        now = self.used - paused
        (step, then), self._mark = self._mark, (done, now)
        return of_first_process(max((now - then) / max(done - step, 1), 1e-9))


def of_first_process(seconds: float) -> float:
    """Return the number of the first process. Collective."""
    if jax.process_count() == 1:
        return seconds
    return float(multihost_utils.broadcast_one_to_all(np.float32(seconds)))


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Measured seconds."""

    left: float
    """Until the end of the time."""

    step: float
    """Of a step, without evaluations and saves."""

    evaluation: float
    """Of an evaluation before the last, with its save."""

    last: float
    """Of the last evaluation, with its save."""

    compiling: float
    """Of compiling the step."""


def new_length(
    speed: Speed, seconds: float, *, done: int, total: int, call: int, every: int
) -> tuple[int, bool]:
    """Return the steps of a run that ends in time, and whether to compile for them.

    Without compiling, the schedule keeps the length that it has.

    Args:
        speed: of the run.
        seconds: of the whole run.
        done: steps made.
        total: steps of the run so far.
        call: steps of a dispatch.
        every: steps between two evaluations.
    """
    each = speed.step + speed.evaluation / every

    def end(compiling: float) -> int:
        steps = int((speed.left - speed.last - compiling) / each)
        return done + min(max(steps // call, 1), (LARGEST - done) // call) * call

    if abs(end(0.0) - total) * each <= TOLERANCE * seconds:
        return total, False
    if speed.compiling > COMPILING * speed.left:
        return end(0.0), False
    return end(speed.compiling), True
