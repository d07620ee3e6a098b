"""Train an experiment once, or once for each of several seeds."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

import jax

from data.storage import AnyPath, open_path
from train.devices import start
from train.eval_only import evaluate_only
from train.experiment import AbstractExperiment
from train.run import train
from train.runs.metrics_file import read_rows
from train.runs.record import read_config

Make = Callable[[Any, str], AbstractExperiment]
"""From a configuration and a title to an experiment."""


def run(make: Make, title: str, config: Any) -> int:
    """Train or evaluate as configured, and return the exit status.

    With `seeds` the runs follow each other, in directories `seed<N>` of the run's. A
    complete run is not repeated, so the same command resumes all of them.
    """
    start(config.mesh, config.run)
    if config.run.eval_only:
        return evaluate_only(make(config, title))
    if not config.seeds:
        return train(make(config, title))
    folder = open_path(config.run_dir or time.strftime(f"runs/{title}-%Y%m%d-%H%M%S"))
    scores = []
    for seed in config.seeds:
        run_dir = str(folder / f"seed{seed}")
        one = make(replace(config, seed=seed, seeds=(), run_dir=run_dir), title)
        if last_scores(one) is None and (status := train(one)):
            return status
        scores.append(last_scores(one) or {})
    if jax.process_index() == 0:
        print("\n".join(["", *describe(folder, config.seeds, scores)]))
    return 0


def last_scores(experiment: AbstractExperiment) -> dict[str, float] | None:
    """Return the evaluation that a run recorded at its end; None if there is none."""
    folder, step = open_path(experiment.config.run_dir), experiment.total
    if experiment.config.run.minutes is not None:
        before = read_config(folder / "config.json")
        step = before and before[1].get("steps")
    for row in reversed(read_rows(folder)):
        if row.get("split") == "eval" and row["step"] == step:
            skipped = ("step", "split", "score", "examples_per_second")
            return {name: value for name, value in row.items() if name not in skipped}
    return None


def describe(
    folder: AnyPath, seeds: tuple[int, ...], scores: list[dict[str, float]]
) -> list[str]:
    """Return a table: mean and standard deviation of every score over the seeds."""
    lines = [f"{folder}, seeds {' '.join(map(str, seeds))}:"]
    for name in scores[0]:
        values = [row[name] for row in scores if row.get(name) is not None]
        if values:
            spread = stdev(values) if len(values) > 1 else 0.0
            each = " ".join(f"{value:.4f}" for value in values)
            lines.append(f"  {mean(values):8.4f} +- {spread:.4f}  {name:16s} {each}")
    return lines
