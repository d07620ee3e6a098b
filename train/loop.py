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
from train.step import Metrics


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


def train(
    state: TrainState,
    step: Callable[[TrainState, PyTree], tuple[TrainState, Metrics]],
    make_batch: Callable[[int], PyTree],
    evaluate: Callable[[TrainState, bool], tuple[Values, float]],
    *,
    intervals: Intervals,
    examples: int,
    score: str,
    prefetch: int,
    run: RunConfig,
    report: Report,
    checkpoints: Checkpoints,
) -> tuple[TrainState, int]:
    """The trained state and an exit status: 0, or that of a signal.

    Metrics of a dispatch are read while the next one runs. A state is saved only after
    its metrics have been seen to be finite.

    Args:
        state: to go on from; donated.
        step: the compiled step.
        make_batch: the input of the dispatch that begins at a step; called in a thread.
        evaluate: values and examples a second; the flag says whether it is the last.
        intervals: totals and intervals.
        examples: rows of one step, for the rate.
        score: the value by which the best checkpoint is chosen, the higher the better.
        prefetch: batches prepared ahead.
        run: intervals of reports and checkpoints.
        report: where metrics go.
        checkpoints: where states go.

    Raises:
        NonFiniteError: if a loss is not finite; what was saved before is good.
    """
    done = int(state.step)
    pending: tuple[int, bool, Metrics] | None = None
    interrupt = Interrupt()

    def settle() -> None:
        """Read the metrics of the dispatch before."""
        nonlocal pending
        if pending is None:
            return
        at, wanted, metrics = pending
        pending = None
        values = averages(metrics)
        require_finite(values, at, checkpoints.newest)
        if wanted:
            report.record(at, "train", values, report.rate())

    try:
        with Prefetch(make_batch, intervals.calls(done), prefetch) as batches:
            while done < intervals.total:
                before, length = done, intervals.length(done)
                state, metrics = step(state, batches.get())
                done += length
                settle()
                pending = (done, crossed(run.log_every, before, done), metrics)
                report.progress(done, length * examples)

                last = done == intervals.total
                stop = interrupt.wanted()
                evaluated = last or crossed(intervals.eval_every, before, done)
                if not (evaluated or stop or crossed(run.save_every, before, done)):
                    continue
                settle()
                best = None
                if evaluated:
                    values, rate = evaluate(state, last)
                    require_finite(values, done, checkpoints.newest)
                    report.record(done, "eval", values, rate)
                    best = values[score]
                checkpoints.save(state, score=best)
                report.restart_clock()
                if stop and not last:
                    checkpoints.wait()
                    report.say(
                        f"Stopped at step {done}, which is saved. The same command on "
                        "the same run directory goes on from there."
                    )
                    return state, interrupt.status
        checkpoints.wait()
        return state, 0
    finally:
        interrupt.close()


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
