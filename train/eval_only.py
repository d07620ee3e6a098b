"""Evaluate the newest checkpoint of a run, or first weights, without training."""

import json
import time
from contextlib import closing
from typing import Any

import jax
from jaxtyping import PyTree

from configs import require
from data.storage import AnyPath, append_text, open_path, store_errors
from train.experiment import AbstractExperiment
from train.programs import compiled_evaluation, first_state
from train.runs.checkpoint import Checkpoints
from train.runs.experiments import name_of
from train.runs.run_dir import make_folder, require_same_model
from train.state import abstract_state
from train.watch.metrics import arranged
from train.watch.terminal import Terminal


def evaluate_only(experiment: AbstractExperiment) -> int:
    """Evaluate on all data and return the exit status.

    Read-only, so safe while the run is training. Results are printed, and added to
    `evaluations.jsonl` in the run's directory.

    Raises:
        UserError: if there is nothing to evaluate, or it is of another configuration.
    """
    config = experiment.config
    folder = open_path(config.run_dir) if config.run_dir else None
    weights = None if folder is None else read_weights(folder, experiment)
    if weights is None:
        require(
            config.init_from != "scratch" or folder is None,
            f"No checkpoint to evaluate in `{folder}`. Name the directory of a run "
            "with `--config.run-dir`, or weights with `--config.init-from`. Without "
            "either, fresh weights are evaluated.",
        )
        state = first_state(experiment)
        weights = state.evaluated, state.table, 0
    model, table, step = weights
    if folder is not None:
        make_folder(folder)
    with closing(Terminal()) as terminal:
        evaluate = compiled_evaluation(experiment, model, table, terminal)
        evaluation = evaluate(model, table, experiment.eval_splits("only"))
    assert evaluation is not None
    if jax.process_index() != 0:
        return 0
    print(f"\nAfter {step} steps ({folder or experiment.title}):")
    print(experiment.summary(evaluation))
    if folder is not None:
        row = {
            "step": step,
            "split": "eval-only",
            "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "weights": f"checkpoint of step {step}" if step else config.init_from,
            "examples": evaluation.examples,
            **arranged(evaluation.values, {"examples_per_second": evaluation.rate}),
        }
        append_text(folder / "evaluations.jsonl", json.dumps(row) + "\n")
    return 0


def read_weights(
    folder: AnyPath, experiment: AbstractExperiment
) -> tuple[Any, PyTree, int] | None:
    """Return model, table and step of the newest checkpoint; None if there is none.

    Raises:
        UserError: if the run is of another model, or no checkpoint can be read.
    """
    with store_errors():
        if not (folder / "checkpoints").is_dir():
            return None
    require_same_model(folder, experiment.config, name_of(type(experiment)))
    like = abstract_state(experiment.init, experiment.mesh)
    run = experiment.config.run
    with closing(Checkpoints(folder / "checkpoints", run, read_only=True)) as saved:
        return saved.restore_weights(like.model, like.table, best=False)
