"""Loading a trained model, whatever mesh it was trained on."""

import importlib.util
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from configs import MeshConfig, RunConfig, UserError, require
from data.storage import AnyPath, open_path
from train.experiment import AbstractExperiment
from train.mesh import layout, make_mesh
from train.models import Sizes, build_model
from train.runs.checkpoint import Checkpoints
from train.runs.metrics_file import scores
from train.runs.published import find_model, is_published, restore_weights
from train.runs.record import Config, read_config, recorded_run, require_kind
from train.runs.stored import saved_steps
from train.table import TABLE, make_table

CheckpointName = Literal["best", "newest"] | int
"""The checkpoint of the best score, the newest, or the one of a step."""


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


def load_run(
    run_dir: str | AnyPath,
    checkpoint: CheckpointName = "best",
    mesh: Mesh | None = None,
    experiment: type[AbstractExperiment] | None = None,
) -> LoadedRun:
    """Load the model of a run, which may be training, or a published model.

    Args:
        run_dir: folder of the run; or a published model, see `find_model`.
        checkpoint: which one to read. A damaged checkpoint is skipped with a warning,
            unless its step is given.
        mesh: where to put the model; None for one device.
        experiment: builds the model; None for the one that the configuration describes.

    Raises:
        UserError: if there is no such run, or no readable checkpoint.
    """
    folder = find_model(run_dir)
    config, record = recorded_run(run_dir)
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
        restored = restore_weights(folder, model, table)
        if record["kind"] == "gpt":  # the folder has the tokenizer
            config = replace(config, data=replace(config.data, path=str(folder)))
        return LoadedRun(record["kind"], config, *restored, record["step"], sizes)
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
    return LoadedRun(record["kind"], config, *restored, sizes=sizes)


def experiment_of(file: str) -> type[AbstractExperiment] | None:
    """Run a Python file and return the experiment that it defines.

    None if it defines no experiment: a file may also register a kind of puzzle.

    Args:
        file: its path, `FILE.py`; `FILE.py:CLASS` where it defines several.

    Raises:
        UserError: if there is no such file or class, or several.
    """
    path, _, name = file.partition(":")
    require(Path(path).is_file(), f"File not found: `{path}`. Check the path.")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    classes = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, AbstractExperiment)
        and value.__module__ == module.__name__
        and key == (name or key)
    }
    require(
        len(classes) == 1 or not (classes or name),
        f"`{file}` must name one subclass of `AbstractExperiment`: found "
        f"{', '.join(classes) or 'none'}. Name one as `{path}:CLASS`.",
    )
    return next(iter(classes.values()), None)


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
