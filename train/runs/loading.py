"""Loading a trained model, whatever mesh it was trained on."""

from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from configs import CheckpointName, MeshConfig, RunConfig, UserError, require
from data.storage import AnyPath, open_path
from train.experiment import AbstractExperiment
from train.mesh import layout, make_mesh
from train.models import Sizes, build_model
from train.runs.checkpoint import Checkpoints
from train.runs.experiments import import_experiment, own_experiment
from train.runs.metrics_file import scores
from train.runs.published import find_model, is_published, restore_weights
from train.runs.record import (
    Config,
    read_config,
    recorded_run,
    require_kind,
    run_and_step,
)
from train.runs.stored import saved_steps
from train.table import TABLE, make_table


@dataclass(frozen=True)
class LoadedRun:
    """A trained model."""

    kind: str
    """`trm` or `gpt`."""

    config: Any
    """Of the run: a `TrainTRM` or a `TrainGPT`."""

    model: Any
    """The averaged weights where the run has these; float32."""

    table: PyTree
    """The puzzle table of a TRM (a `Table`); () of a GPT."""

    step: int
    """Of the checkpoint."""

    sizes: Sizes = field(default_factory=dict)

    experiment: type[AbstractExperiment] | None = None
    """Class of the run's experiment; None for the one of `python -m train.KIND`."""


def load_run(
    run_dir: str | AnyPath,
    checkpoint: CheckpointName = "best",
    mesh: Mesh | None = None,
    experiment: type[AbstractExperiment] | None = None,
) -> LoadedRun:
    """Load the model of a run, which may be training, or a published model.

    Args:
        run_dir: folder of the run, or of one of its checkpoints; or a published
            model, see `find_model`.
        checkpoint: which one to read, unless `run_dir` names it. A damaged checkpoint
            is skipped with a warning, unless its step is given.
        mesh: where to put the model; None for one device.
        experiment: class of the run's experiment; None to import the one that is
            recorded (not of a published model: its files may be anybody's).

    Raises:
        UserError: if there is no such run, no readable checkpoint, or its experiment
            cannot be imported.
    """
    run_dir, step = run_and_step(run_dir)
    folder = find_model(run_dir)
    config, record = recorded_run(folder)
    checkpoint = checkpoint if step is None else step
    own = None if is_published(folder) else own_experiment(record)
    if experiment is None and own is not None:
        experiment = import_experiment(own, folder)
    sizes, devices = record.get("sizes") or {}, 1 if mesh is None else mesh.size
    require(bool(sizes), f"`{run_dir}/config.json` has no `sizes`. Restore the file.")

    def build() -> tuple[Any, PyTree]:
        if experiment is None:
            model, rows = build_model(config, sizes)
        else:
            plain = mesh or make_mesh(MeshConfig(), jax.local_devices()[:1])
            model, rows = experiment(config, mesh=plain, sizes=sizes).build()
        return model, make_table(rows, devices)

    model, table = jax.eval_shape(build)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def placed(leaf: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        sharding = device if mesh is None else NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    specs = jax.tree.map(lambda _: PartitionSpec(), model)
    model = jax.tree.map(placed, model, specs if mesh is None else layout(model, mesh))
    table = jax.tree.map(lambda leaf: placed(leaf, TABLE), table)
    if is_published(folder):
        model, table = restore_weights(folder, model, table)
        if record["kind"] == "gpt":  # the folder has the tokenizer
            config = replace(config, data=replace(config.data, path=str(folder)))
        of_run = model, table, record["step"], sizes, experiment
        return LoadedRun(record["kind"], config, *of_run)
    opened = Checkpoints(
        folder / "checkpoints", RunConfig(), scores=scores(folder), read_only=True
    )
    with closing(opened) as checkpoints:
        restored = checkpoints.restore_weights(
            model,
            table,
            best=checkpoint == "best",
            only=checkpoint if isinstance(checkpoint, int) else None,
        )
    if restored is None:
        raise UserError(f"`{run_dir}` has no checkpoint yet. Wait for the first.")
    return LoadedRun(record["kind"], config, *restored, sizes, experiment)


def kept_steps(run_dir: str | AnyPath) -> list[int]:
    """Return the steps of the checkpoints of a run, ascending."""
    return sorted(saved_steps(open_path(run_dir) / "checkpoints"))


def has_checkpoint(run_dir: str) -> bool:
    """Return True if there is a run to resume."""
    return bool(run_dir and saved_steps(open_path(run_dir) / "checkpoints"))


def resumed_config(kind: type[Config], run_dir: str) -> Config | None:
    """Return the configuration of a run that has a checkpoint to resume from.

    Raises:
        UserError: if the run is of another kind of model, or `config.json` is damaged.
    """
    if not has_checkpoint(run_dir):
        return None
    before = read_config(open_path(run_dir) / "config.json")
    if before is None:
        return None
    require_kind(before[0], run_dir, kind)
    return before[0]
