"""Train an experiment once, or once for each of several seeds."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
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
from train.side_by_side import side_by_side

Make = Callable[[Any, str], AbstractExperiment]
"""From a configuration and a title to an experiment."""


def run(make: Make, title: str, config: Any) -> int:
    """Train or evaluate as configured, and return the exit status.

    With `seeds` there is a run for each, in directories `seed<N>` of the run's, one
    after the other or `run.seeds_at_once`, whose output is in `<N>.log`. A complete run
    is not repeated, so the same command resumes all of them.
    """
    if config.run.eval_only or not config.seeds:
        start(config.mesh, config.run)
        do = evaluate_only if config.run.eval_only else train
        return do(make(config, title))
    folder = open_path(config.run_dir or time.strftime(f"runs/{title}-%Y%m%d-%H%M%S"))
    alone, at_once = replace(config.run, seeds_at_once=1), config.run.seeds_at_once
    single = {
        seed: replace(
            config, seed=seed, seeds=(), run=alone, run_dir=str(folder / f"seed{seed}")
        )
        for seed in config.seeds
    }
    if at_once > 1:
        work = {seed: partial(complete, make, title, single[seed]) for seed in single}
        jobs = {Path(folder / f"{seed}.log"): job for seed, job in work.items()}
        status = side_by_side(jobs, at_once)
    else:
        ends = (complete(make, title, one) for one in single.values())
        status = next(filter(None, ends), 0)
    if status:
        return status
    start(config.mesh, config.run)
    scores = [last_scores(make(one, title)) or {} for one in single.values()]
    if jax.process_index() == 0:
        print("\n".join(["", *describe(folder, config.seeds, scores)]))
    return 0


def complete(make: Make, title: str, config: Any) -> int:
    """Train a run unless it is complete, and return the exit status."""
    start(config.mesh, config.run)
    experiment = make(config, title)
    return train(experiment) if last_scores(experiment) is None else 0


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
