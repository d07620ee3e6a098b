"""Evaluate a model during training: averages over whole splits."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from gpt.metrics import Metrics
from train.feed import Prefetch
from train.watch.metrics import averages
from train.watch.speed import Values
from train.watch.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class Split:
    """Examples to evaluate, in batches of equal size; the last may be padded."""

    name: str
    """Prefix of the metrics' names."""

    examples: int
    batches: int

    whole: int | None = None
    """Examples of the whole split, if `examples` are the first of them."""

    batch: Callable[[int], PyTree[np.ndarray]]
    """Returns this process's rows of a batch, given its number. Called in a thread."""

    derive: Callable[[Values], Values] = lambda means: {}
    """Returns further values, given the means of the metrics."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of an evaluation."""

    values: Values
    examples: int
    rate: float
    """Examples per second."""

    first: tuple[PyTree, PyTree]
    """A global batch and its predictions."""


def evaluate(
    step: Callable[..., Any],
    model: Any,
    table: PyTree,
    splits: Sequence[Split],
    *,
    place: Callable[[PyTree], PyTree],
    prefetch: int,
    terminal: Terminal,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Return averages over each split; None if `stop` returned true.

    Sums are added on the host in double precision, in the order of the batches, while
    the next batch runs.

    Args:
        step: the compiled evaluation of a batch.
        model: the weights to evaluate.
        table: the puzzle table; () without one.
        splits: to evaluate.
        place: converts this process's rows to a global batch.
        prefetch: number of batches prepared ahead.
        terminal: shows the progress.
        stop: called before each batch.
    """
    values: Values = {}
    first: tuple[PyTree, PyTree] = ((), ())
    rows, start, number = 0, time.perf_counter(), 0
    tick = terminal.task("evaluating", sum(s.batches for s in splits), "batches")
    for split in splits:
        totals: dict[str, np.ndarray] = {}
        pending: Metrics = {}

        def add(metrics: Metrics, totals: dict[str, np.ndarray] = totals) -> None:
            for name, pair in jax.device_get(metrics).items():
                before = totals.get(name, np.zeros(2))
                totals[name] = before + np.asarray(pair, np.float64)

        make = lambda index, split=split: place(split.batch(index))
        with Prefetch(make, range(split.batches), prefetch) as batches:
            for index in range(split.batches):
                if stop():
                    return None
                batch = batches.get()
                metrics, prediction = step(model, table, batch)
                if index == 0:
                    first = batch, prediction
                add(pending)
                pending, number = metrics, number + 1
                tick(number - 1)
        add(pending)
        means = averages({name: tuple(total) for name, total in totals.items()})
        means |= split.derive(means)
        values |= {f"{split.name}{name}": value for name, value in means.items()}
        rows += split.examples
    rate = rows / (time.perf_counter() - start)
    return Evaluation(values=values, examples=rows, rate=rate, first=first)
