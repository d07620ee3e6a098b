"""Evaluation of a split: metrics summed over all of its batches and devices."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from train.report import Values, averages
from train.step import Metrics


def evaluate(
    step: Callable[[Any, PyTree, PyTree], tuple[Metrics, PyTree]],
    model: Any,
    table: PyTree,
    batches: Iterable[PyTree],
    *,
    examples: int,
) -> tuple[Values, float]:
    """Averages over all batches, and examples a second.

    Sums are added on the host in double precision, in the order of the batches.

    Args:
        step: the compiled evaluation.
        model: the weights to evaluate.
        table: the puzzle table; () without one.
        batches: global batches; the last may be padded.
        examples: how many they hold, padding excluded.
    """
    start = time.perf_counter()
    totals: dict[str, np.ndarray] = {}
    for batch in batches:
        metrics, _ = step(model, table, batch)
        for name, pair in jax.device_get(metrics).items():
            totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
    values = averages({name: (total[0], total[1]) for name, total in totals.items()})
    return values, examples / (time.perf_counter() - start)
