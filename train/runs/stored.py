"""One checkpoint on disk, read back as it was saved, or the caller says why not.

With the arrays goes the fingerprint of each, by which a damaged one is told: Orbax
notices a missing or short file, but not every wrong bit.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from configs import UserError, require
from data.storage import AnyPath, absolute, store_errors
from train.runs.integrity import Fingerprint, fingerprint, kinds
from train.state import TrainState
from train.table import Table, is_table

# -- the parts of a state --------------------------------------------------------------


def parts_of(state: TrainState) -> dict[str, PyTree]:
    """The parts of a state that hold arrays, by name."""
    parts = {
        "counters": {"step": state.step, "updates": state.updates},
        "model": state.model,
        "ema": state.ema,
        "table": {"rows": state.table},  # Orbax takes no bare array, nor a table
        "opt_state": state.opt_state,
        "carry": state.carry,
        "scale": state.scale,
    }
    return {
        name: part
        for name, part in parts.items()
        if sum(leaf.size for leaf in jax.tree.leaves(part))
    }


def arrays_of(part: PyTree) -> PyTree:
    """A part as Orbax takes it."""
    rows = lambda node: node.rows if is_table(node) else node
    return jax.tree.map(rows, part, is_leaf=is_table)


def _with_tables(part: PyTree, wanted: PyTree) -> PyTree:
    """A part that Orbax has read, with tables where they are wanted."""
    fit = lambda like, x: Table(x, like.length) if is_table(like) else x
    return jax.tree.map(fit, wanted, part, is_leaf=is_table)


def without_numbers(leaf: Any) -> jax.Array:
    """What holds no number, of the shape and the type wanted."""
    return jnp.zeros(leaf.shape, leaf.dtype)


# -- what is saved besides the arrays --------------------------------------------------


def describe(arrays: Fingerprint, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What to save with arrays of this fingerprint."""
    return {"arrays": arrays, "crc": _crc(arrays), "settings": dict(settings)}


def metadata(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """What was saved with a checkpoint besides its arrays."""
    return manager.metadata(step).custom_metadata or {}


def saved_steps(folder: AnyPath) -> list[int]:
    """Steps of the checkpoints in a folder that are complete."""
    with store_errors():
        return ocp.utils.checkpoint_steps(absolute(folder)) if folder.is_dir() else []


def _crc(arrays: Mapping[str, Sequence[object]]) -> int:
    return zlib.crc32(json.dumps(arrays, sort_keys=True).encode())


# -- reading ---------------------------------------------------------------------------


class OtherModelError(UserError):
    """A checkpoint is of another model than the configured one."""


def read_state(
    manager: ocp.CheckpointManager, step: int, abstract: TrainState
) -> TrainState:
    """The state of a step.

    Raises:
        OtherModelError: if it is of another model.
        Exception: of many types, if it is damaged.
    """
    wanted = parts_of(abstract)
    _require_same(_stored(manager, step), wanted, manager, step)
    parts = read_parts(manager, step, wanted)
    counters = parts.pop("counters")
    if "table" in parts:
        parts["table"] = parts["table"]["rows"]
    # What holds no number was not stored: it is made as it is wanted.
    rest = {
        name: jax.tree.map(without_numbers, part)
        for name, part in vars(abstract).items()
        if name not in parts and name not in counters
    }
    return TrainState(**rest, **counters, **parts)


def read_weights(
    manager: ocp.CheckpointManager, step: int, model: PyTree, table: PyTree
) -> tuple[PyTree, PyTree, int]:
    """The weights to release of a step, the table, and the step.

    Raises:
        OtherModelError: if they are of another model.
        Exception: of many types, if they are damaged.
    """
    stored = _stored(manager, step)
    name = "ema" if any(path.startswith("ema.") for path in stored) else "model"
    wanted = {name: model}
    if sum(leaf.size for leaf in jax.tree.leaves(table)):
        wanted["table"] = {"rows": table}
    prefixes = tuple(f"{part}." for part in wanted)
    stored = {path: v for path, v in stored.items() if path.startswith(prefixes)}
    _require_same(stored, wanted, manager, step)
    parts = read_parts(manager, step, wanted)
    if "table" in parts:
        return parts[name], parts["table"]["rows"], step
    return parts[name], jax.tree.map(without_numbers, table), step


def read_parts(
    manager: ocp.CheckpointManager, step: int, wanted: dict[str, PyTree]
) -> dict[str, PyTree]:
    """Some parts of the state of a step, checked."""
    stored = _stored(manager, step)
    args = {
        name: ocp.args.StandardRestore(  # pyright: ignore[reportCallIssue]
            # Rows of a table that do not count are added or left out.
            arrays_of(part),
            strict=name != "table",
        )
        for name, part in wanted.items()
    }
    read = manager.restore(step, args=ocp.args.Composite(**args))
    parts = {name: _with_tables(read[name], part) for name, part in wanted.items()}
    sums, finite = fingerprint(parts)
    for path, (_, checksum) in sums.items():
        require(checksum == stored[path][1], f"the checksum of `{path}` is wrong")
    require(finite, "not all of its numbers are finite")
    return parts


def _stored(manager: ocp.CheckpointManager, step: int) -> Fingerprint:
    """The fingerprint of a checkpoint when it was saved."""
    about = metadata(manager, step)
    arrays = about.get("arrays", {})
    require(bool(arrays), "the description of its arrays is missing")
    require(about.get("crc") == _crc(arrays), "its description is garbled")
    return {path: (kind, total) for path, (kind, total) in arrays.items()}


def _require_same(
    stored: Fingerprint, wanted: PyTree, manager: ocp.CheckpointManager, step: int
) -> None:
    """Raise unless all arrays have the name, type and shape that is wanted."""
    there, here = {path: kind for path, (kind, _) in stored.items()}, kinds(wanted)
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise OtherModelError(
                f"The checkpoint at step {step} in `{manager.directory}` must be of "
                f"the configured model: `{name}` is {there.get(name, 'missing')} "
                f"there and {here.get(name, 'missing')} here. Use the "
                "configuration it was made with, or a new `--config.run-dir`."
            )
