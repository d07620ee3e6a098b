"""One set of a dataset on disk: its five arrays, opened and checked.

A set is a list of groups; a group is a range of puzzles (images of one another) and a
puzzle a range of examples. Ranges are given by their ends: `group_indices[g]` is the
first puzzle of group g, `puzzle_indices[p]` the first example of puzzle p.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from configs import UserError
from data.puzzles.metadata import Metadata

CHUNK = 1 << 22  # tokens looked at in one go: 4 MB of uint8, so it stays in the cache


class Arrays(NamedTuple):
    """The arrays of one set; inputs and labels are mapped from disk, not loaded."""

    inputs: Integer[np.ndarray, "examples seq"]
    labels: Integer[np.ndarray, "examples seq"]
    puzzle_identifiers: Integer[np.ndarray, " puzzles"]
    puzzle_indices: Integer[np.ndarray, " puzzles+1"]
    group_indices: Integer[np.ndarray, " groups+1"]


def read_arrays(folder: Path, name: str, metadata: Metadata) -> Arrays:
    """Return the set `name` of the split in `folder`, with every value checked.

    Raises:
        UserError: if a file is missing or unreadable, or breaks the format.
    """
    arrays = Arrays(
        *(_load(folder / f"{name}__{field}.npy") for field in Arrays._fields)
    )
    where = f"{folder}/{name}__"
    for field in ("inputs", "labels"):
        _check_shape(where + field, getattr(arrays, field), metadata.seq_len)
    inputs, labels, identifiers, puzzles, groups = arrays
    if len(inputs) != len(labels):
        raise _broken(
            where + "labels", f"{len(inputs)} rows, as inputs", f"{len(labels)}"
        )
    _check_indices(where + "puzzle_indices", puzzles, len(inputs), "examples")
    _check_indices(where + "group_indices", groups, len(puzzles) - 1, "puzzles")
    if identifiers.shape != (len(puzzles) - 1,):
        wanted = f"the shape ({len(puzzles) - 1},), one for each puzzle"
        raise _broken(where + "puzzle_identifiers", wanted, f"{identifiers.shape}")
    ids = metadata.num_puzzle_identifiers
    _check_values(where + "puzzle_identifiers", identifiers, ids, None)
    _check_values(where + "inputs", inputs, metadata.vocab_size, None)
    ignored = metadata.ignore_label_id
    _check_values(where + "labels", labels, metadata.vocab_size, ignored)
    return arrays


def _load(path: Path) -> np.ndarray:
    """Return the array in `path`: mapped if it holds tokens, else in memory."""
    if not path.is_file():
        raise UserError(
            f"A set must have five array files: {path} is missing. "
            "Copy it there or rebuild the dataset with `python -m data.prepare`."
        )
    mapped = path.stem.endswith(("__inputs", "__labels"))
    try:
        array = np.asarray(np.load(path, mmap_mode="r" if mapped else None))
    except (ValueError, OSError, EOFError) as error:
        raise _broken(str(path), "a readable .npy array", str(error)) from None
    if not np.issubdtype(array.dtype, np.integer):
        raise _broken(str(path), "integers", str(array.dtype))
    return array


def _check_shape(where: str, array: Integer[np.ndarray, "..."], seq_len: int) -> None:
    """Raise `UserError` unless `array` has rows of `seq_len` tokens."""
    if array.ndim != 2 or array.shape[1] != seq_len or not len(array):
        raise _broken(where, f"the shape (examples, {seq_len})", f"{array.shape}")


def _check_indices(
    where: str, indices: Integer[np.ndarray, "..."], total: int, of: str
) -> None:
    """Raise `UserError` unless `indices` cut `total` things into non-empty ranges."""
    if indices.ndim != 1 or len(indices) < 2:
        raise _broken(where, "one dimension and two entries", f"{indices.shape}")
    if indices[0] != 0:
        raise _broken(where, "a first entry of 0", f"{indices[0]}")
    if indices[-1] != total:
        raise _broken(where, f"a last entry of {total}, all {of}", f"{indices[-1]}")
    if (falls := np.flatnonzero(indices[1:] <= indices[:-1])).size:
        at = int(falls[0])
        got = f"{indices[at]} and {indices[at + 1]} at {at} and {at + 1}"
        raise _broken(where, f"increasing entries (no empty range of {of})", got)


def _check_values(
    where: str, array: Integer[np.ndarray, "..."], size: int, ignored: int | None
) -> None:
    """Raise `UserError` unless all values are `ignored` or in 0 .. size - 1."""
    flat = array.reshape(-1)
    for start in range(0, len(flat), CHUNK):
        chunk = flat[start : start + CHUNK]
        if chunk.min() >= 0 and chunk.max() < size:
            continue
        wrong = (chunk < 0) | (chunk >= size)
        if ignored is not None:
            wrong &= chunk != ignored
        if wrong.any():
            at = start + int(wrong.argmax())
            index = tuple(int(i) for i in np.unravel_index(at, array.shape))
            wanted = f"values from 0 to {size - 1}"
            raise _broken(where, wanted, f"{flat[at]} at {index}")


def _broken(where: str, wanted: str, got: str) -> UserError:
    """Return the error for an array that breaks the format."""
    return UserError(
        f"`{where.removesuffix('.npy')}.npy` must have {wanted}: got {got}. "
        "Rebuild the dataset with `python -m data.prepare`, or correct `dataset.json` "
        "where that is wrong."
    )
