"""The training loop of every model: step, report, evaluate, save, stop when asked."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jaxtyping import PyTree

from configs import RunConfig
from train.checkpoint import Checkpoints, NonFiniteError
from train.interrupt import Interrupt
from train.prefetch import Prefetch
from train.report import Report, Values, averages
from train.state import TrainState
from train.step import TrainStep
from train.objective import Metrics


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """When things happen, in steps; at the first dispatch that ends at or after."""

    total: int
    per_call: int
    eval_every: int

    def calls(self, done: int) -> Iterator[int]:
        """First step of each dispatch."""
        return iter(range(done, self.total, self.per_call))

    def length(self, first: int) -> int:
        """Steps of the dispatch that begins at `first`."""
        return min(self.per_call, self.total - first)


def crossed(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in `(before, after]`."""
    return after // every > before // every


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A loop over the steps of a run.

    Metrics of a dispatch are read while the next one runs. A state is saved only after
    its metrics have been seen to be finite.
    """

    step: TrainStep
    """The compiled step."""

    make_batch: Callable[[int], PyTree]
    """The input of the dispatch that begins at a step; called in a thread."""

    evaluate: Callable[[TrainState, bool], tuple[Values, float]]
    """Values and examples a second; the flag says whether it is the last time."""

    score: Callable[[Values], float]
    """By which the best checkpoint is chosen, the higher the better."""

    intervals: Intervals
    examples: int
    """Rows of one step, for the rate."""

    prefetch: int
    """Batches prepared ahead."""

    run: RunConfig
    report: Report
    checkpoints: Checkpoints

    def train(self, state: TrainState) -> tuple[TrainState, int]:
        """The trained state and an exit status: 0, or that of a signal.

        Args:
            state: to go on from; donated.

        Raises:
            NonFiniteError: if a loss is not finite; what was saved before is good.
        """
        done, total = int(state.step), self.intervals.total
        calls = self.intervals.calls(done)
        ledger = Ledger(self.report, self.checkpoints)
        interrupt = Interrupt()
        try:
            with Prefetch(self.make_batch, calls, self.prefetch) as batches:
                while done < total:
                    before, length = done, self.intervals.length(done)
                    state, metrics = self.step(state, batches.get())
                    done += length
                    ledger.settle()
                    logged = crossed(self.run.log_every, before, done)
                    ledger.put(done, logged, metrics)
                    self.report.progress(done, length * self.examples)
                    stop = interrupt.wanted()
                    self._pause(state, before, done, stop, ledger)
                    if stop and done < total:
                        self.checkpoints.wait()
                        self._say_stopped(done)
                        return state, interrupt.status
            self.checkpoints.wait()
            return state, 0
        finally:
            interrupt.close()

    def _pause(
        self, state: TrainState, before: int, done: int, stop: bool, ledger: "Ledger"
    ) -> None:
        """Evaluate and save, where it is time to."""
        last = done == self.intervals.total
        evaluated = last or crossed(self.intervals.eval_every, before, done)
        due = self.run.save == "always" and crossed(self.run.save_every, before, done)
        if not (evaluated or stop or due):
            return
        ledger.settle()
        score = None
        if evaluated:
            values, rate = self.evaluate(state, last)
            require_finite(values, done, self.checkpoints.newest)
            self.report.record(done, "eval", values, rate)
            score = self.score(values)
            due = self.run.save == "always" or score > self.checkpoints.best
        if due or stop:
            self.checkpoints.save(state, score=score)
        self.report.restart_clock()

    def _say_stopped(self, done: int) -> None:
        self.report.say(
            f"Stopped at step {done}, which is saved. The same command on the same "
            "run directory goes on from there."
        )


class Ledger:
    """The metrics of one dispatch, kept until the next one runs."""

    def __init__(self, report: Report, checkpoints: Checkpoints):
        self._report, self._checkpoints = report, checkpoints
        self._pending: tuple[int, bool, Metrics] | None = None

    def put(self, step: int, logged: bool, metrics: Metrics) -> None:
        """Keep the metrics of the dispatch that ends at `step`."""
        self._pending = step, logged, metrics

    def settle(self) -> None:
        """Read, check and report what was kept.

        Raises:
            NonFiniteError: if a value is not finite.
        """
        if self._pending is None:
            return
        step, logged, metrics = self._pending
        self._pending = None
        values = averages(metrics)
        require_finite(values, step, self._checkpoints.newest)
        if values.get("skipped"):
            self._report.say(
                f"step {step}: a float16 gradient overflowed, so the update was "
                f"skipped and the loss scale of {values['loss_scale']:g} halved"
            )
        if logged:
            self._report.record(step, "train", values, self._report.rate())


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
