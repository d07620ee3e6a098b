"""A trained model as a folder to share: weights, configuration and card, no state.

config.json        every setting of the run, and under `recorded` what belongs to it
model.safetensors  the averaged weights, and the rows of the puzzle table
tokenizer.json     of a GPT
README.md          the model's card

`train.push` writes such folders. Those in `train/pretrained` come with this project.
"""

import re
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from configs import UserError, require
from data.storage import AnyPath, exists, is_remote, open_path, whole_file
from train.runs.integrity import kinds
from train.table import Table, is_table

WEIGHTS = "model.safetensors"
PACKAGED = Path(__file__).parent.parent / "pretrained"
"""A folder for each packaged model."""

Dtype = Literal["float32", "float16", "bfloat16"]


def packaged() -> list[str]:
    """Return the names of the packaged models."""
    return sorted(path.parent.name for path in PACKAGED.glob(f"*/{WEIGHTS}"))


def is_published(folder: AnyPath) -> bool:
    """Return True if the folder holds a published model."""
    return exists(folder / WEIGHTS)


def find_model(name: str | AnyPath) -> AnyPath:
    """Return the folder of a run or a published model.

    Args:
        name: the folder; if there is none, the name of a packaged model; else a model
            of the Hugging Face hub, `owner/name`, which is downloaded.

    Raises:
        UserError: if the download fails.
    """
    folder = open_path(name)
    if is_remote(folder) or exists(folder):
        return folder
    if str(name) in packaged():
        return open_path(PACKAGED / str(name))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) and not exists(folder.parent):
        return open_path(_download(str(name)))
    return folder


def _download(name: str) -> str:
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name, allow_patterns=["*.json", WEIGHTS])
    except Exception as error:  # of many types
        raise UserError(
            f"There is no folder `{name}`, and no model of this name could be had from "
            f"the Hugging Face hub ({type(error).__name__}). Check the name, or use a "
            f"packaged model: {', '.join(packaged())}."
        ) from error


def write_weights(folder: Path, model: PyTree, table: PyTree, dtype: Dtype) -> None:
    """Write the weights of a model into its folder.

    Args:
        folder: of the published model.
        model: averaged weights.
        table: the puzzle table; () without one.
        dtype: type to store.
    """
    tree = {"model": model, "table": table}
    whole = lambda leaf: leaf.rows[: leaf.length] if is_table(leaf) else leaf
    arrays = map(whole, jax.tree.leaves(tree, is_leaf=is_table))
    stored = {
        name: np.asarray(jnp.asarray(array, dtype))
        for name, array in zip(kinds(tree), arrays, strict=True)
    }
    with whole_file(open_path(folder / WEIGHTS)) as file:
        file.write(save(stored))


def restore_weights(
    folder: AnyPath, model: PyTree, table: PyTree
) -> tuple[PyTree, PyTree]:
    """Return the model and the puzzle table of a published model.

    Args:
        folder: of the published model.
        model: shapes, types and shardings wanted, on any mesh.
        table: shapes, types and shardings of the puzzle table; () without one.

    Raises:
        UserError: if the weights cannot be read, or are of another model.
    """
    path = folder / WEIGHTS
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"Could not read `{path}` ({error}). Copy it again.") from error
    tree = {"model": model, "table": table}
    shapes = lambda tree: {
        (n, kind.partition("[")[2]) for n, kind in kinds(tree).items()
    }
    other = sorted({name for name, _ in shapes(tree) ^ shapes(stored)})
    require(
        not other,
        f"`{path}` must have the arrays that its `config.json` describes: "
        f"{len(other)} differ, `{', '.join(other[:3])}` among them. Copy both again.",
    )

    def placed(name: str, leaf: Any) -> Any:
        if not is_table(leaf):
            return jax.device_put(stored[name].astype(leaf.dtype), leaf.sharding)
        rows = np.zeros(leaf.rows.shape, leaf.rows.dtype)
        rows[: leaf.length] = stored[name]
        return Table(jax.device_put(rows, leaf.rows.sharding), leaf.length)

    leaves, structure = jax.tree.flatten(tree, is_leaf=is_table)
    restored = map(placed, kinds(tree), leaves)
    tree = jax.tree.unflatten(structure, restored)
    return tree["model"], tree["table"]
