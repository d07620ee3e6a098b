"""Reading and describing one checkpoint.

A checksum of every array is saved with it, because Orbax notices a missing or short
file but not every wrong bit.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from configs import UserError, first_line, require
from data.storage import (
    AnyPath,
    absolute,
    read_text,
    store_errors,
    write_whole,
)
from train.runs.integrity import Fingerprint, fingerprint, kinds
from train.state import TrainState
from train.table import Table, is_table

SCORE = "score.json"

# -- the parts of a state --------------------------------------------------------------


def has_numbers(part: PyTree) -> bool:
    """Return True if an array of the tree is not empty."""
    return any(leaf.size for leaf in jax.tree.leaves(part))


def parts_of(state: TrainState) -> dict[str, PyTree]:
    """Return the parts of a state that are saved, by name."""
    parts = vars(state) | {
        "counters": {"step": state.step, "updates": state.updates},
        "table": {"rows": state.table},  # Orbax takes no bare array
    }
    del parts["step"], parts["updates"]
    return {name: part for name, part in parts.items() if has_numbers(part)}


def arrays_of(part: PyTree) -> PyTree:
    """Return a part with arrays in place of tables, as Orbax requires."""
    rows = lambda node: node.rows if is_table(node) else node
    return jax.tree.map(rows, part, is_leaf=is_table)


def _with_tables(part: PyTree, wanted: PyTree) -> PyTree:
    """Undo `arrays_of`."""
    fit = lambda like, x: Table(x, like.length) if is_table(like) else x
    return jax.tree.map(fit, wanted, part, is_leaf=is_table)


def _empty(part: PyTree) -> PyTree:
    """Return the arrays of a part that was not saved, since they are empty."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), part)


# -- metadata --------------------------------------------------------------------------


def describe(
    step: int, arrays: Fingerprint, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the metadata to save with arrays of this fingerprint."""
    crc = _crc(arrays)
    return {"step": step, "arrays": arrays, "crc": crc, "settings": dict(settings)}


def metadata(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """Return the metadata that was saved with a checkpoint."""
    return manager.metadata(step).custom_metadata or {}


def saved_steps(folder: AnyPath) -> list[int]:
    """Return the steps of the complete checkpoints in a folder."""
    with store_errors():
        return ocp.utils.checkpoint_steps(absolute(folder)) if folder.is_dir() else []


def unusable_steps(folder: AnyPath) -> dict[int, str]:
    """Return the steps that Orbax can neither open nor replace, and why."""
    faults = {}
    if not folder.is_dir():
        return faults
    for step in ocp.path.step.standard_name_format().find_all(absolute(folder)):
        try:
            _ = step.commit_timestamp  # it reads all metadata
        except FileNotFoundError:  # removed by the run that is training
            continue
        except Exception as error:  # of many types
            require_resources(error)
            faults[step.step] = first_line(error)
    for path in folder.iterdir() if isinstance(folder, Path) else ():
        if path.name.isdecimal() and not path.is_dir():
            faults[int(path.name)] = "it is no folder"
    return faults


def saved_scores(folder: AnyPath) -> dict[int, float | None]:
    """Return the scores in the folders of checkpoints.

    None for one that was not evaluated. A checkpoint of an earlier version is missing:
    its score is in `metrics.jsonl` only.
    """
    scores = {}
    for step in saved_steps(folder):
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            score = json.loads(read_text(folder / str(step) / SCORE))["score"]
            scores[step] = None if score is None else float(score)
    return scores


def write_score(folder: AnyPath, step: int, score: float | None) -> None:
    """Write a score into the folder of its checkpoint."""
    write_whole(folder / str(step) / SCORE, json.dumps({"score": score}))


def _crc(arrays: Mapping[str, Sequence[object]]) -> int:
    return zlib.crc32(json.dumps(arrays, sort_keys=True).encode())


def _saved_arrays(manager: ocp.CheckpointManager, step: int) -> Fingerprint:
    """Return the fingerprint of the saved arrays; raise if the metadata is damaged."""
    about = metadata(manager, step)
    arrays = about.get("arrays", {})
    require(bool(arrays), "the description of its arrays is missing")
    require(about.get("crc") == _crc(arrays), "its description is garbled")
    require(about.get("step", step) == step, f"it is of step {about.get('step')}")
    return {path: (kind, total) for path, (kind, total) in arrays.items()}


# -- errors ----------------------------------------------------------------------------


def require_resources(error: Exception) -> None:
    """Raise `UserError` if an error is not the checkpoint's fault but the machine's."""
    short = ("Too many open files", "Cannot allocate memory", "Permission denied")
    require(
        not isinstance(error, MemoryError)
        and not any(text in str(error) for text in short),
        f"Could not read a checkpoint ({first_line(error)}). It is not damaged: allow "
        "more open files (`ulimit -n`) or memory, or give read permission.",
    )


# -- reading ---------------------------------------------------------------------------


class OtherModelError(UserError):
    """A checkpoint is of another model than the configured one."""


def read_state(
    manager: ocp.CheckpointManager, step: int, abstract: TrainState
) -> TrainState:
    """Return the state of a step.

    Raises:
        OtherModelError: if it is of another model.
        Exception: of many types, if it is damaged.
    """
    parts = parts_of(abstract)
    parts = _read(manager, step, parts, _saved_arrays(manager, step))
    counters = parts.pop("counters")
    if "table" in parts:
        parts["table"] = parts["table"]["rows"]
    empty = {
        name: _empty(part)
        for name, part in vars(abstract).items()
        if name not in parts | counters
    }
    return TrainState(**empty, **counters, **parts)


def read_weights(
    manager: ocp.CheckpointManager, step: int, model: PyTree, table: PyTree
) -> tuple[PyTree, PyTree, int]:
    """Return the weights to release of a step, the table, and the step.

    Raises:
        OtherModelError: if they are of another model.
        Exception: of many types, if they are damaged.
    """
    saved = _saved_arrays(manager, step)
    name = "ema" if any(path.startswith("ema.") for path in saved) else "model"
    wanted = {name: model}
    if has_numbers(table):
        wanted["table"] = {"rows": table}
    prefixes = tuple(f"{part}." for part in wanted)
    saved = {path: v for path, v in saved.items() if path.startswith(prefixes)}
    parts = _read(manager, step, wanted, saved)
    return parts[name], parts.get("table", {"rows": _empty(table)})["rows"], step


def _read(
    manager: ocp.CheckpointManager,
    step: int,
    wanted: dict[str, PyTree],
    saved: Fingerprint,
) -> dict[str, PyTree]:
    """Return parts of the state of a step, checked against the saved fingerprint."""
    there, here = {path: kind for path, (kind, _) in saved.items()}, kinds(wanted)
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise OtherModelError(
                f"The checkpoint at step {step} in `{manager.directory}` is of another "
                f"model: `{name}` is {there.get(name, 'missing')} there and "
                f"{here.get(name, 'missing')} here. Use the configuration it was made "
                "with, or a new `--config.run-dir`."
            )
    args = {
        name: ocp.args.StandardRestore(  # pyright: ignore[reportCallIssue]
            # A table is padded to the number of devices, which may be another here.
            arrays_of(part),
            strict=name != "table",
        )
        for name, part in wanted.items()
    }
    arrays = manager.restore(step, args=ocp.args.Composite(**args))
    parts = {name: _with_tables(arrays[name], part) for name, part in wanted.items()}
    sums, finite = fingerprint(parts)
    for path, (_, checksum) in sums.items():
        require(checksum == saved[path][1], f"the checksum of `{path}` is wrong")
    require(finite, "not all of its numbers are finite")
    return parts
