"""The steps since the last line of metrics: sums on the devices, and what they took."""

import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gpt.metrics import Metrics
from train.runs.checkpoint import Checkpoints, NonFiniteError
from train.watch.report import Report, averages
from train.watch.speed import Rates, Values, memory

LATEST = ("lr", "loss_scale")
"""Metrics of which the latest counts, not the mean."""

AHEAD = 2
"""Dispatches that may wait or run on the devices before the host waits for one: enough
that the devices never do, and few, since each keeps its batch in memory."""


@jax.jit
def joined(before: Metrics, after: Metrics) -> Metrics:
    """The metrics of steps that follow each other."""
    return {
        name: pair if name in LATEST else jax.tree.map(jnp.add, before[name], pair)
        for name, pair in after.items()
    }


def done_at(tree: Any) -> float:
    """The time at which arrays were computed; waits for it."""
    jax.block_until_ready(tree)
    return time.perf_counter()


@dataclass(frozen=True)
class Line:
    """What a line of metrics is made of."""

    step: int
    sums: Metrics
    examples: int

    done: Future[float]
    """When the last of its steps was done."""

    waited: float
    """Seconds for which the devices may have waited for data."""

    rates: Rates
    """What else to report, given the examples a second."""


class Interval:
    """The steps since the last line; a line is read while the next dispatch runs.

    Args:
        report: where lines go.
        checkpoints: for what is said if a number is not finite.
        done: steps made before.
    """

    def __init__(self, report: Report, checkpoints: Checkpoints, done: int):
        self._report, self._checkpoints = report, checkpoints
        self._sums: Metrics | None = None
        self._step, self._examples, self._waited = done, 0, 0.0
        self._line: Line | None = None
        self._began = time.perf_counter()
        self._running: deque[Metrics] = deque()
        # It sees when a line's steps are done, while this thread does something else.
        self._watch = ThreadPoolExecutor(1)

    def add(self, step: int, metrics: Metrics, examples: int, waited: float) -> None:
        """Take in the dispatch that ends at `step`.

        Args:
            step: its last.
            metrics: on the devices.
            examples: rows that went through the model.
            waited: seconds for which its batch was waited for.
        """
        self._sums = metrics if self._sums is None else joined(self._sums, metrics)
        self._step = step
        self._examples += examples
        self._waited += waited
        self._running.append(metrics)
        if len(self._running) > AHEAD:
            jax.block_until_ready(self._running.popleft())

    def end_line(self, rates: Rates) -> None:
        """Let the next `flush` report the steps up to here.

        Args:
            rates: what else to report of them, given the examples a second.
        """
        assert self._sums is not None
        done = self._watch.submit(done_at, self._sums)
        self._line = Line(
            self._step, self._sums, self._examples, done, self._waited, rates
        )
        self._sums, self._examples, self._waited = None, 0, 0.0

    def flush(self) -> None:
        """Read, check and report the line that has ended, if there is one.

        Raises:
            NonFiniteError: if a value is not finite, or float16 cannot go on.
        """
        if self._line is None:
            return
        line, self._line = self._line, None
        values = self._checked(line.step, line.sums)
        if values.get("skipped"):
            self._say_skipped(line, values)
        seconds = max(line.done.result() - self._began, 1e-9)
        self._began = line.done.result()
        rate = line.examples / seconds
        speed = {"examples_per_second": rate, **line.rates(rate), **memory()}
        speed["data_wait_seconds"] = line.waited
        self._report.record(line.step, "train", values, speed)

    def settle(self) -> None:
        """Wait for all steps and check them, before their state is saved.

        Raises:
            NonFiniteError: if a value is not finite, or float16 cannot go on.
        """
        self.flush()
        if self._sums is not None:
            self._checked(self._step, self._sums)

    @contextmanager
    def pause(self, what: str) -> Iterator[Values]:
        """Work that is not training: its seconds have a row, and count for no speed.

        Args:
            what: is done.

        Yields:
            Where to note which of the seconds were for something else.
        """
        self.settle()
        parts: Values = {}
        begin = time.perf_counter()
        yield parts
        seconds = time.perf_counter() - begin
        self._began += seconds
        rest = seconds - sum(value or 0.0 for value in parts.values())
        row = {f"{name}_seconds": value for name, value in parts.items()}
        self._report.record(self._step, "time", row | {f"{what}_seconds": rest})

    def _checked(self, step: int, sums: Metrics) -> Values:
        values, newest = averages(sums), self._checkpoints.newest
        require_finite(values, step, newest)
        scale = values.get("loss_scale")
        if values.get("skipped") and scale is not None and scale < 1.0:
            overflow = f"an overflow in float16 at a loss scale of {scale:g}"
            raise NonFiniteError(overflow, step, newest)
        return values

    def _say_skipped(self, line: Line, values: Values) -> None:
        skipped = int(line.sums["skipped"][0])
        updates = "update was" if skipped == 1 else "updates were"
        self._report.say(
            f"step {line.step}: {skipped} {updates} skipped, as a float16 number "
            f"overflowed; the loss scale was {values['loss_scale']:g} and is halved "
            "each time"
        )

    def close(self) -> None:
        """Let go of the thread."""
        self._watch.shutdown()


def require_finite(values: Values, step: int, saved: int | None) -> None:
    """Raise `NonFiniteError` unless every value is finite."""
    bad = {
        name: value
        for name, value in values.items()
        if value is not None and not math.isfinite(value)
    }
    if bad:
        got = ", ".join(f"{name} = {value}" for name, value in bad.items())
        raise NonFiniteError(got, step, saved)
