"""An evaluation of a model under training, by averages over whole splits."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from train.feed import Prefetch, Split
from train.objective import Metrics
from train.watch.compiling import Watched
from train.watch.report import averages
from train.watch.speed import Values


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came out of an evaluation."""

    values: Values
    examples: int
    rate: float
    """Examples a second."""

    compiling: float
    """Seconds that went before, to compile it; 0 if it was."""

    first: tuple[PyTree, PyTree]
    """A batch and its predictions."""


def evaluate(
    step: Watched,
    model: Any,
    table: PyTree,
    splits: list[Split],
    *,
    prefetch: int,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Averages over each split; None if it was told to stop.

    Sums are added on the host in double precision, in the order of the batches, each
    while the next one runs.

    Args:
        step: the evaluation of a batch.
        model: the weights to evaluate.
        table: the puzzle table; () without one.
        splits: what to evaluate.
        prefetch: batches prepared ahead.
        stop: whether to stop now, asked before each batch.
    """
    values: Values = {}
    first: tuple[PyTree, PyTree] = ((), ())
    rows, start, compiling, number = 0, time.perf_counter(), 0.0, 0
    tick = step.screen.task("evaluating", sum(s.batches for s in splits), "batches")
    for split in splits:
        totals: dict[str, np.ndarray] = {}
        pending: Metrics = {}

        def add(metrics: Metrics, totals: dict[str, np.ndarray] = totals) -> None:
            for name, pair in jax.device_get(metrics).items():
                before = totals.get(name, np.zeros(2))
                totals[name] = before + np.asarray(pair, np.float64)

        with Prefetch(split.batch, range(split.batches), prefetch) as batches:
            for index in range(split.batches):
                if stop():
                    return None
                batch = batches.get()
                begin = time.perf_counter()
                if not step.ready(model, table, batch, stop=stop):
                    return None
                compiling += time.perf_counter() - begin
                metrics, prediction = step(model, table, batch)
                if index == 0:
                    first = batch, prediction
                add(pending)
                pending, number = metrics, number + 1
                tick(number - 1)
        add(pending)
        sums = {name: (total[0], total[1]) for name, total in totals.items()}
        found = averages(sums)
        values |= {f"{split.name}{name}": value for name, value in found.items()}
        rows += split.examples
    rate = rows / (time.perf_counter() - start - compiling)
    return Evaluation(
        values=values, examples=rows, rate=rate, compiling=compiling, first=first
    )
