"""Timing of several programs in turns, so that a machine's moods hit all of them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Arm(Protocol):
    """A program to be timed."""

    name: str

    def step(self) -> None:
        """One step; it may still be under way on the device when this returns."""
        ...

    def wait(self) -> None:
        """Return when all steps are done."""
        ...


@dataclass(frozen=True)
class Samples:
    """Milliseconds a step, a value for each block of steps."""

    wall: list[float]
    cpu: list[float]
    """Processor time of this process, which leaves out other processes' turns."""


def time_block(arm: Arm, steps: int) -> tuple[float, float]:
    """Wall and processor milliseconds a step, over one block."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        arm.step()
    arm.wait()
    scale = 1e3 / steps
    return (
        scale * (time.perf_counter() - wall),
        scale * (time.process_time() - cpu),
    )


def interleave(
    arms: Sequence[Arm], *, warmup: int, repeats: int, steps: int
) -> list[Samples]:
    """Samples of each arm, taken in turns: A B A B ...

    Args:
        arms: programs, in the order of their turns.
        warmup: steps of each that are not timed, at least 2: a second step may compile
            again if the state it gets is laid out otherwise than the first.
        repeats: blocks of each.
        steps: steps of a block, waited for at its end.
    """
    for arm in arms:
        time_block(arm, max(warmup, 2))
    turns = [[time_block(arm, steps) for arm in arms] for _ in range(repeats)]
    return [
        Samples([t[i][0] for t in turns], [t[i][1] for t in turns])
        for i in range(len(arms))
    ]


def summary(samples: Samples) -> dict[str, float]:
    """Median and spread; `aa` is the median of the even blocks over that of the odd.

    A ratio of two arms that is nearer to 1 than `aa` shows nothing.
    """
    wall = np.asarray(samples.wall)
    low, median, high = np.percentile(wall, (10, 50, 90))
    even, odd = np.median(wall[::2]), np.median(wall[1::2] if wall.size > 1 else wall)
    return {
        "ms": float(median),
        "ms_p10": float(low),
        "ms_p90": float(high),
        "ms_min": float(wall.min()),
        "cpu_ms": float(np.median(samples.cpu)),
        "aa": float(even / odd),
    }
