"""The log of a run: numbers of its steps and evaluations, for every tracker."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax

from gpt.metrics import Metrics
from train.runs.checkpoint import NonFiniteError
from train.runs.metrics_file import MetricsFile
from train.watch.metrics import arranged, averages, joined
from train.watch.speed import Rates, Values, memory
from train.watch.terminal import Terminal
from train.watch.trackers import Tracker

AHEAD = 2
"""Dispatches in flight before the host waits: enough to keep the devices busy, and few,
since each keeps its batch in memory."""


def done_at(tree: Any) -> float:
    """Wait until arrays are computed and return the time."""
    jax.block_until_ready(tree)
    return time.perf_counter()


class Log:
    """The numbers of a run. Only the first process writes them.

    Metrics of steps are added up on the devices until their line ends. A line is read
    while the next dispatch runs, so that the devices never wait.

    Attributes:
        paused: seconds of all pauses so far.

    Args:
        trackers: where numbers go, besides the terminal.
        terminal: prints them.
        newest: returns the step of the newest checkpoint, for messages.
        done: steps made before.
    """

    def __init__(
        self,
        trackers: Sequence[Tracker],
        terminal: Terminal,
        newest: Callable[[], int | None],
        done: int,
    ):
        self.terminal = terminal
        first = jax.process_index() == 0
        self._trackers: list[Tracker] = [*trackers, terminal] if first else []
        self._newest = newest
        self._step, self._examples, self._waited = done, 0, 0.0
        self._sums: Metrics | None = None
        self._line: Callable[[], None] | None = None
        self._began, self.paused = time.perf_counter(), 0.0
        self._running: deque[Metrics] = deque()
        # Notices when the steps of a line are done, while this thread is busy.
        self._clock = ThreadPoolExecutor(1)

    def note(
        self,
        step: int,
        metrics: Metrics,
        *,
        examples: int,
        waited: float,
        rates: Rates | None = None,
    ) -> None:
        """Add the metrics of the dispatch that ends at `step`; write the line before.

        Args:
            step: its last step.
            metrics: its sums, on the devices.
            examples: rows that went through the model.
            waited: seconds spent waiting for its batch.
            rates: if given, the line ends here; from examples a second to other rates.

        Raises:
            NonFiniteError: if a number of the line before is not finite.
        """
        self._write_line()
        self._sums = metrics if self._sums is None else joined(self._sums, metrics)
        self._step = step
        self._examples += examples
        self._waited += waited
        self._running.append(metrics)
        if len(self._running) > AHEAD:
            jax.block_until_ready(self._running.popleft())
        if rates is not None:
            done = self._clock.submit(done_at, self._sums)
            line = (step, self._sums, self._examples, self._waited, rates, done)
            self._line = partial(self._record_steps, *line)
            self._sums, self._examples, self._waited = None, 0, 0.0
        self.terminal.progress(step)

    def record(
        self, step: int, split: str, values: Values, speed: Values | None = None
    ) -> None:
        """Write numbers to every tracker.

        Args:
            step: the step after which they were measured.
            split: `train`, `eval`, or `time` for seconds without training.
            values: the numbers.
            speed: rates of the same work.

        Raises:
            NonFiniteError: if a value is not finite.
        """
        self._require_finite(values, step)
        numbers = {
            f"{split}/{name}": value
            for name, value in arranged(values, speed or {}).items()
        }
        for tracker in self._trackers:
            tracker.log(numbers, step)

    @contextmanager
    def pause(self, what: str) -> Iterator[Values]:
        """Time work that is not training: it counts for no speed.

        Args:
            what: name of the work.

        Yields:
            Where to note the seconds of parts of the work, by name.

        Raises:
            NonFiniteError: if a metric of the steps before is not finite.
        """
        self._settle()
        parts: Values = {}
        begin = time.perf_counter()
        yield parts
        seconds = time.perf_counter() - begin
        self._began += seconds
        self.paused += seconds
        rest = seconds - sum(value or 0.0 for value in parts.values())
        row = {f"{name}_seconds": value for name, value in parts.items()}
        self.record(self._step, "time", row | {f"{what}_seconds": rest})

    def say(self, text: str) -> None:
        """Print lines."""
        self.terminal.say(text)

    def close(self) -> None:
        """Close all trackers."""
        self._clock.shutdown()
        for tracker in reversed(self._trackers):
            tracker.close()

    def _settle(self) -> None:
        """Wait for all steps, check them, and write the metrics to their file."""
        self._write_line()
        if self._sums is not None:
            self._checked(self._step, self._sums)
        for tracker in self._trackers:
            if isinstance(tracker, MetricsFile):
                tracker.flush()

    def _write_line(self) -> None:
        """Write the line that has ended, if there is one."""
        line, self._line = self._line, None
        if line is not None:
            line()

    def _record_steps(
        self,
        step: int,
        sums: Metrics,
        examples: int,
        waited: float,
        rates: Rates,
        done: Future[float],
    ) -> None:
        values = self._checked(step, sums)
        if values.get("skipped"):
            self.say(
                f"step {step}: updates skipped for an overflow in float16: "
                f"{int(sums['skipped'][0])}; the loss scale was "
                f"{values['loss_scale']:g} and is halved each time"
            )
        end = done.result()
        rate = examples / max(end - self._began, 1e-9)
        self._began = end
        speed = {"examples_per_second": rate, **rates(rate), **memory()}
        self.record(step, "train", values, speed | {"data_wait_seconds": waited})

    def _checked(self, step: int, sums: Metrics) -> Values:
        """Return the averages; raise `NonFiniteError` if the run cannot continue."""
        values = averages(sums)
        self._require_finite(values, step)
        scale = values.get("loss_scale")
        if values.get("skipped") and scale is not None and scale < 1.0:
            overflow = f"an overflow in float16 at a loss scale of {scale:g}"
            raise NonFiniteError(overflow, step, self._newest())
        return values

    def _require_finite(self, values: Values, step: int) -> None:
        bad = [
            f"{name} = {value}"
            for name, value in values.items()
            if value is not None and not math.isfinite(value)
        ]
        if bad:
            raise NonFiniteError(", ".join(bad), step, self._newest())
