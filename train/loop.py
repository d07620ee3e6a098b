"""The training loop of every model: step, report, evaluate, save, stop when asked."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import PyTree

from configs import LARGEST, Piecewise, RunConfig, require
from train.devices import Interrupt
from train.evaluation import Evaluation
from train.feed import Prefetch
from train.phases import Phase
from train.runs.checkpoint import Checkpoints
from train.state import TrainState
from train.watch.compiling import compiled
from train.watch.interval import Interval, require_finite
from train.watch.report import Report
from train.watch.speed import Values
from train.watch.tracing import Tracing


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """When things happen, in steps; at the first dispatch that ends at or after."""

    total: int
    per_call: int
    eval_every: int

    def __post_init__(self) -> None:
        require(
            self.total <= LARGEST,
            f"A run must have at most {LARGEST} steps: got {self.total}. Use fewer "
            "`epochs` or `max_iters`, or a larger batch.",
        )

    def calls(self, done: int) -> Iterator[int]:
        """First step of each dispatch."""
        return iter(range(done, self.total, self.per_call))

    def length(self, first: int) -> int:
        """Steps of the dispatch that begins at `first`."""
        return min(self.per_call, self.total - first)

    def evaluates(self, done: int) -> bool:
        """Whether an evaluation is due after the dispatch that ends at `done`."""
        return done == self.total or crossed(
            self.eval_every, max(done - self.per_call, 0), done
        )


def crossed(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in `(before, after]`."""
    return after // every > before // every


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A loop over the steps of a run.

    A line of metrics is read while the next dispatch runs. A state is saved only after
    its metrics have been seen to be finite, and before it is evaluated.
    """

    phases: Piecewise[Phase]
    """The phase of each step."""

    make_step: Callable[[Phase], Any]
    """The step of a phase, by `eqx.filter_jit`. Its `lower(...).compile()` is called;
    it would itself wait for what it computes, for errors that nothing here raises."""

    enter: Callable[[Phase, TrainState], TrainState]
    """The state with as many rows as a phase has."""

    make_batch: Callable[[int], PyTree]
    """The input of the dispatch that begins at a step; called in a thread."""

    evaluate: Callable[[TrainState, bool, Callable[[], bool]], Evaluation | None]
    """`state, whether it is the last time, whether to stop -> evaluation`."""

    score: Callable[[Values], float]
    """Score; higher is better."""

    intervals: Intervals

    prefetch: int
    """Batches prepared ahead."""

    run: RunConfig
    report: Report
    checkpoints: Checkpoints

    def train(self, state: TrainState) -> tuple[Evaluation | None, int]:
        """The last evaluation and an exit status: 0, or that of a signal.

        Until the first step is made a signal ends the process at once: there is nothing
        to save.

        Args:
            state: to go on from; donated.

        Raises:
            NonFiniteError: if a loss is not finite.
            SaveError: if a state could not be saved.
        """
        done, total = int(state.step), self.intervals.total
        interval = Interval(self.report, self.checkpoints, done)
        evaluation, programs = None, {}
        if done > 0 and self.intervals.evaluates(done) and not self.report.knows(done):
            # It was killed between saving and evaluating.
            evaluation = self._evaluate(state, done, lambda: False, interval)
        interrupt = Interrupt()
        profile = self.report.folder / "profile"
        tracing = Tracing(self.run.profiled, profile, range(done + 1, total + 1))
        try:
            calls = self.intervals.calls(done)
            with Prefetch(self.make_batch, calls, self.prefetch) as batches:
                while done < total:
                    before, length = done, self.intervals.length(done)
                    phase = self.phases.at(done)
                    batch = batches.get()
                    if (phase, length) not in programs:  # a call would wait for it
                        with (
                            interval.pause("compile"),
                            warnings.catch_warnings(action="ignore"),
                        ):
                            lowered = self.make_step(phase).lower(state, batch)
                            programs[phase, length] = compiled(
                                lowered,
                                "the train step",
                                self.report.screen,
                                interrupt.wanted,
                            )
                    if programs[phase, length] is None:
                        return self._stopped(state, interrupt, interval)
                    if tracing.starts(done + 1, done + length):
                        with interval.pause("profile"):
                            tracing.start()
                    with tracing.step(done + length):
                        state, metrics = programs[phase, length](state, batch)
                    done += length
                    if self.phases.at(done) is not phase:
                        state = self.enter(self.phases.at(done), state)
                    interrupt.listen()
                    interval.flush()
                    interval.add(done, metrics, length * phase.examples, batches.waited)
                    if self._line_is_due(before, done):
                        interval.end_line(phase.rates)
                    self.report.progress(done)
                    if tracing.stops(done):
                        with interval.pause("profile"):
                            tracing.stop()
                    self.checkpoints.check()
                    stop = interrupt.wanted()
                    if self.intervals.evaluates(done) and not stop:
                        evaluation = self._evaluate_and_save(
                            state, done, interrupt, interval
                        )
                        stop = evaluation is None
                    elif stop or self._save_is_due(before, done):
                        self._save(state, interval)
                    if stop:
                        return self._stopped(state, interrupt, interval)
            self.checkpoints.wait()
            return evaluation, 0
        finally:
            tracing.stop()
            interrupt.close()
            interval.close()

    def _line_is_due(self, before: int, done: int) -> bool:
        """Whether a line of metrics ends: none is of two phases, and none is lost."""
        changes = self.phases.at(before) is not self.phases.at(done)
        ends = changes or done == self.intervals.total
        return ends or crossed(self.run.log_every, before, done)

    def _save_is_due(self, before: int, done: int) -> bool:
        return self.run.save == "always" and crossed(self.run.save_every, before, done)

    def _save(self, state: TrainState, interval: Interval) -> None:
        if int(state.step) != self.checkpoints.newest:
            with interval.pause("save"):
                self.report.flush()
                self.checkpoints.save(state)

    def _evaluate_and_save(
        self, state: TrainState, done: int, interrupt: Interrupt, interval: Interval
    ) -> Evaluation | None:
        """The evaluation; None if it was stopped, in which case the state is saved.

        The state is saved first, unless only the best are and it is not the last.
        """
        last = done == self.intervals.total
        if self.run.save == "always" or last:
            self._save(state, interval)
        best = self.checkpoints.best
        evaluation = self._evaluate(state, done, interrupt.wanted, interval)
        if evaluation is None or self.score(evaluation.values) >= best:
            self._save(state, interval)
        return evaluation

    def _evaluate(
        self,
        state: TrainState,
        done: int,
        stop: Callable[[], bool],
        interval: Interval,
    ) -> Evaluation | None:
        """The evaluation, reported; None if it was stopped."""
        with interval.pause("evaluate") as parts:
            evaluation = self.evaluate(state, done == self.intervals.total, stop)
            if evaluation is not None and evaluation.compiling > 0.1:
                parts["compile"] = evaluation.compiling
        if evaluation is None:
            return None
        values = evaluation.values
        require_finite(values, done, self.checkpoints.newest)
        score = self.score(values)
        speed: Values = {"examples_per_second": evaluation.rate}
        self.report.record(done, "eval", values | {"score": score}, speed)
        self.checkpoints.score(done, score)
        return evaluation

    def _stopped(
        self, state: TrainState, interrupt: Interrupt, interval: Interval
    ) -> tuple[None, int]:
        """What `train` returns after a signal, when all is saved."""
        self._save(state, interval)
        self.checkpoints.wait()
        self.report.say(f"Stopped at step {int(state.step)}, which is saved.")
        return None, interrupt.status
