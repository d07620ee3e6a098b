"""Loading what a run has trained, whatever mesh it was trained on."""

import importlib
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from configs import RunConfig, UserError
from data.storage import AnyPath, open_path, store_errors
from train.mesh import layout
from train.runs.checkpoint import Checkpoints
from train.runs.metrics_file import scores
from train.runs.record import (
    Config,
    Sizes,
    from_settings,
    read_config,
    recorded_kind,
    recorded_run,
    require_kind,
    without_record,
)
from train.runs.stored import saved_steps
from train.table import TABLE, make_table

CheckpointName = Literal["best", "newest"] | int
"""The checkpoint of the best score, the newest, or that of a step."""


@dataclass(frozen=True)
class LoadedRun:
    """What a run has trained, on one device."""

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
    """What the data's sizes were."""


def load_run(
    run_dir: str | AnyPath,
    checkpoint: CheckpointName = "best",
    mesh: Mesh | None = None,
) -> LoadedRun:
    """The model of a run, whatever mesh it was trained on. The run may be going on.

    Args:
        run_dir: folder of the run.
        checkpoint: which one; a damaged one is passed over with a warning, unless its
            step is named.
        mesh: where to put it; None for one device.

    Raises:
        UserError: if there is no such run, or no checkpoint that can be read.
    """
    kind, config, record = recorded_run(run_dir)
    recipe = importlib.import_module(f"train.{kind}")
    sizes = record.get("sizes") or recipe.sizes_of_data(config)
    devices = 1 if mesh is None else mesh.size

    def build() -> tuple[Any, PyTree]:
        model, rows = recipe.build(config, sizes)
        return model, make_table(rows, devices)

    model, table = jax.eval_shape(build)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def placed(leaf: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        sharding = device if mesh is None else NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    specs = jax.tree.map(lambda _: PartitionSpec(), model)
    model = jax.tree.map(placed, model, specs if mesh is None else layout(model, mesh))
    table = jax.tree.map(lambda leaf: placed(leaf, TABLE), table)
    with closing(_opened(open_path(run_dir))) as checkpoints:
        restored = checkpoints.restore_weights(
            model,
            table,
            best=checkpoint == "best",
            only=checkpoint if isinstance(checkpoint, int) else None,
        )
    if restored is None:
        raise UserError(
            f"A run must have a checkpoint to read: `{run_dir}` has none yet. Wait for "
            "the first, or train first."
        )
    return LoadedRun(kind, config, *restored, sizes=sizes)


def is_run(path: str) -> bool:
    """Whether a run of ours lies there, and not weights in another format."""
    folder = open_path(path)
    with store_errors():
        return (folder / "config.json").is_file() and (folder / "checkpoints").is_dir()


def kept_steps(run_dir: str | AnyPath) -> list[int]:
    """Steps of the checkpoints that a run has now, ascending."""
    with closing(_opened(open_path(run_dir))) as checkpoints:
        return checkpoints.steps


def _opened(folder: AnyPath) -> Checkpoints:
    """The checkpoints of a run, for reading alone."""
    return Checkpoints(
        folder / "checkpoints", RunConfig(), scores=scores(folder), read_only=True
    )


def has_checkpoint(run_dir: str) -> bool:
    """Whether there is a run to go on with."""
    return bool(run_dir and saved_steps(open_path(run_dir) / "checkpoints"))


def resumed_config(kind: type[Config], run_dir: str) -> Config | None:
    """The configuration of a run that has a checkpoint to go on with; None if none.

    Raises:
        UserError: if the run is of another kind of model, or `config.json` is damaged.
    """
    if not has_checkpoint(run_dir):
        return None
    tree = read_config(open_path(run_dir))
    if tree is None:
        return None
    require_kind(recorded_kind(tree), run_dir, kind)
    return from_settings(kind, without_record(tree))
