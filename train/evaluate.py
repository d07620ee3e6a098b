"""Evaluation of a split: metrics summed over all of its batches and devices."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from train.report import Values, averages
from train.objective import Metrics

EvalBatches = dict[str, tuple[Iterable[PyTree], int]]
"""Global batches of each split and the rows in them, by what to call its metrics."""


def evaluate_splits(
    step: Callable[[Any, PyTree, PyTree], tuple[Metrics, PyTree]],
    model: Any,
    table: PyTree,
    splits: EvalBatches,
) -> tuple[Values, float]:
    """Averages over each split, the split's name in front, and examples a second."""
    values: Values = {}
    rows, start = 0, time.perf_counter()
    for split, (batches, examples) in splits.items():
        found = evaluate(step, model, table, batches)
        values |= {f"{split}{name}": value for name, value in found.items()}
        rows += examples
    return values, rows / (time.perf_counter() - start)


def evaluate(
    step: Callable[[Any, PyTree, PyTree], tuple[Metrics, PyTree]],
    model: Any,
    table: PyTree,
    batches: Iterable[PyTree],
) -> Values:
    """Averages over all batches.

    Sums are added on the host in double precision, in the order of the batches.

    Args:
        step: the compiled evaluation.
        model: the weights to evaluate.
        table: the puzzle table; () without one.
        batches: global batches; the last may be padded.
    """
    totals: dict[str, np.ndarray] = {}
    for batch in batches:
        metrics, _ = step(model, table, batch)
        for name, pair in jax.device_get(metrics).items():
            totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
    return averages({name: (total[0], total[1]) for name, total in totals.items()})
