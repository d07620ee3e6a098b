"""First weights of a TRM: from another run, or from an official checkpoint."""

import dataclasses
from typing import Any

import jax
import numpy as np

from configs import TrainTRM, TRMConfig, require
from data.puzzles.metadata import Metadata
from data.remote import local_dataset
from data.storage import exists
from train.feed import prepare_missing
from train.runs.integrity import kinds
from train.runs.loading import LoadedRun, load_run, resumed_config
from train.runs.record import run_and_step
from trm.model import TRM
from trm.official.infer import Given, Official
from trm.official.names import TABLE, load_official
from trm.official.pretrained import first_table, read_official


def resolve(config: TrainTRM) -> tuple[TrainTRM, Official | LoadedRun | None]:
    """Return the configuration with the model of the first weights, and the weights.

    None for a run that is resumed: it needs none.

    Raises:
        UserError: if there are no such weights, or they are of another kind.
    """
    if config.init_from == "scratch":
        return config, None
    resumed = resumed_config(TrainTRM, config.run_dir)
    if resumed is not None and resumed.init_from == config.init_from:
        return with_model(config, resumed.model), None
    prepare_missing(config.data.paths[0], config.data.build)
    seq = Metadata.read(local_dataset(config.data.paths[0]) / "train").seq_len
    if exists(run_and_step(config.init_from)[0] / "config.json"):
        run = load_run(config.init_from, config.init_checkpoint)
        require(
            run.kind == "trm",
            f"First weights must be those of a TRM: `{config.init_from}` is a run of "
            f"`train.{run.kind}`. Name another with `--config.init-from`.",
        )
        return with_model(config, run.config.model), run
    official, _ = read_official(config.init_from, Given(seq=seq), config.model)
    if official.notes and jax.process_index() == 0:
        notes = ", ".join(official.notes)
        print(f"Not given by {config.init_from}, so assumed: {notes}.")
    return with_model(config, official.config), official


def with_model(config: TrainTRM, model: TRMConfig) -> TrainTRM:
    """Return the configuration with another model, but its own kernel of attention."""
    model = dataclasses.replace(model, attention=config.model.attention)
    return dataclasses.replace(config, model=model)


def fitted(
    source: Official | LoadedRun, model: TRM, rows: Any, config: TrainTRM
) -> tuple[TRM, np.ndarray]:
    """Return the weights as a model and the rows of a puzzle table.

    Args:
        source: the weights.
        model: of the run, or its shapes.
        rows: of the run's table, or their shape.
        config: of the run.

    Raises:
        UserError: if the weights are for other puzzles.
    """
    if isinstance(source, Official):
        stored = source.weights.get(TABLE)
        model = load_official(source.weights, model, config.model)
    else:
        stored = source.table.rows
        require_same_arrays(source.model, model, config.init_from)
        leaves = jax.tree.leaves(source.model)
        model = jax.tree.unflatten(jax.tree.structure(model), leaves)
    return model, first_table(stored, rows.shape, config.init_table)


def require_same_arrays(source: TRM, model: TRM, name: str) -> None:
    """Raise `UserError` unless two models have the same arrays."""
    stored = kinds(source)
    for path, kind in kinds(model).items():
        require(
            stored.get(path) == kind,
            f"First weights must be for puzzles like the data: `{path}` is "
            f"{stored.get(path)} in {name} and {kind} here. Use a run on puzzles of "
            "the same size and vocabulary.",
        )
