"""A trained GPT from the directory of its run."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax

from configs import GPTConfig, RunConfig, TrainGPT, require
from gpt.build import build_gpt
from gpt.model import GPT
from train.checkpoint import Checkpoints
from train.run_dir import recorded


@dataclass(frozen=True)
class LoadedRun:
    """A trained model."""

    model: GPT
    """The averaged weights where the run has these; float32, on one device."""

    config: TrainGPT
    """Of the run."""

    shape: GPTConfig
    """What the model was built from, `vocab_size` included."""

    step: int
    """Of the checkpoint."""


def load_run(
    run_dir: Path, checkpoint: Literal["best", "newest"] = "best"
) -> LoadedRun:
    """The model of a run, whatever mesh it was trained on. The run may be going on.

    Args:
        run_dir: folder of the run.
        checkpoint: the one of the lowest loss or the newest; a damaged one is passed
            over with a warning.

    Raises:
        ValueError: if there is no such run of a GPT, or no checkpoint that can be read.
    """
    folder = run_dir / "checkpoints"
    require(
        (run_dir / "config.json").is_file() and folder.is_dir(),
        "A run must have `config.json` and `checkpoints` in its folder: "
        f"`{run_dir}` has not. Check the path, or train first.",
    )
    config = _config(run_dir)
    shapes: list[GPTConfig] = []

    def make(stored: Mapping[str, str]) -> GPT:
        """The abstract model of these arrays."""
        shape = replace(config.model, vocab_size=_rows(stored["embedding.weight"]))
        shapes[:] = [shape]
        return _on_one_device(shape)

    checkpoints = Checkpoints(folder, RunConfig(), read_only=True)
    try:
        restored = checkpoints.restore_weights(make, best=checkpoint == "best")
    finally:
        checkpoints.close()
    if restored is None:
        raise ValueError(
            f"A run must have a checkpoint to read: `{run_dir}` has none yet. Wait for "
            "the first, or train first."
        )
    model, step = restored
    return LoadedRun(model, config, shapes[0], step)


def _config(run_dir: Path) -> TrainGPT:
    """The configuration of a run."""
    try:
        return from_json(TrainGPT, recorded(str(run_dir)))
    except TypeError as error:
        raise ValueError(
            f"`config.json` must be that of a GPT of this version: `{run_dir}` has "
            f"another ({error}). Name the folder of a run of `train.gpt`."
        ) from error


def _rows(kind: str) -> int:
    """Rows of an array described as `float32[65,384]`."""
    return int(kind.split("[")[1].split(",")[0])


def _on_one_device(shape: GPTConfig) -> GPT:
    """Shapes and types of a model, all of it on the first device."""
    rows = shape.vocab_size
    assert rows is not None
    make = lambda: build_gpt(shape, tokens=rows, key=jax.random.key(0))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        jax.eval_shape(make),
    )


def from_json(kind: Any, value: Any) -> Any:
    """`value`, as JSON gives it back, as a dataclass (or a tuple, or a plain value).

    Of several dataclasses it becomes that whose fields are most like its own.

    Args:
        kind: the type wanted.
        value: of a field of this type.

    Raises:
        TypeError: if the value has fields that the dataclass has not.
    """
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kinds = typing.get_args(kind)
        kind = _most_alike(kinds, value) if isinstance(value, dict) else None
    if isinstance(value, list):
        return tuple(value)
    if not dataclasses.is_dataclass(kind):
        return value
    names = value.keys() if isinstance(value, dict) else {str(value)}
    hints = typing.get_type_hints(kind)
    if not names <= hints.keys():
        raise TypeError(f"it should not say {', '.join(sorted(names - hints.keys()))}")
    make: Any = kind
    return make(**{name: from_json(hints[name], value[name]) for name in names})


def _most_alike(kinds: tuple[Any, ...], value: dict[str, Any]) -> Any:
    """The dataclass whose fields differ least from those of a value."""
    candidates = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    names = lambda kind: {field.name for field in dataclasses.fields(kind)}
    return min(candidates, key=lambda kind: len(names(kind) ^ value.keys()))
