"""Write a dataset of puzzles in the official format, atomically."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from configs import LARGEST
from data.folder import new_folder
from data.puzzles.metadata import Metadata


class Examples(NamedTuple):
    """The tokens of a split, one example a puzzle."""

    inputs: UInt8[np.ndarray, "examples seq"]
    labels: UInt8[np.ndarray, "examples seq"]
    per_group: int = 1
    """Puzzles of a group: each puzzle is followed by its augmentations."""


def write_puzzles(
    splits: Mapping[str, Examples],
    out: Path,
    *,
    kind: str,
    vocab_size: int,
    extra: Mapping[str, object],
) -> None:
    """Write a dataset of puzzles to `out`, which appears only when complete.

    Token 0 pads and is not scored. All puzzles have the blank identifier.

    Args:
        splits: examples of `train` and `test`.
        out: the folder to make.
        kind: name of the kind of puzzle in `kinds.KINDS`, for `dataset.json`.
        vocab_size: tokens are 0 .. vocab_size - 1.
        extra: further keys of `dataset.json`, next to `content_hash`.

    Raises:
        UserError: if `out` is not vacant.
    """
    _warn_of_shared(splits["train"].inputs, splits["test"].inputs)
    with new_folder(out) as folder:
        for name, examples in splits.items():
            about = {"kind": kind, **extra}
            _write_split(examples, folder / name, vocab_size, about)
        text = json.dumps(["<blank>"])
        (folder / "identifiers.json").write_text(text, encoding="utf-8")


def _warn_of_shared(
    train: UInt8[np.ndarray, "trains seq"], test: UInt8[np.ndarray, "tests seq"]
) -> None:
    """Warn of training puzzles that are also test puzzles."""
    known = {puzzle.tobytes() for puzzle in test}
    if shared := sum(puzzle.tobytes() in known for puzzle in train):
        warnings.warn(
            f"{shared:,} of {len(train):,} training examples are also test puzzles.",
            stacklevel=4,
        )


def _write_split(
    examples: Examples, folder: Path, vocab_size: int, extra: Mapping[str, object]
) -> None:
    """Write the five arrays and `dataset.json` of one split."""
    folder.mkdir(parents=True)
    count, seq = examples.inputs.shape
    index = np.int32 if count < LARGEST else np.int64
    arrays = {
        "inputs": examples.inputs,
        "labels": examples.labels,
        "puzzle_identifiers": np.zeros(count, np.int32),
        "puzzle_indices": np.arange(count + 1, dtype=index),
        "group_indices": np.arange(0, count + 1, examples.per_group, dtype=index),
    }
    for name, array in arrays.items():
        np.save(folder / f"all__{name}.npy", array)
    groups = count // examples.per_group
    Metadata(
        pad_id=0,
        ignore_label_id=0,
        blank_identifier_id=0,
        vocab_size=vocab_size,
        seq_len=seq,
        num_puzzle_identifiers=1,
        total_groups=groups,
        mean_puzzle_examples=1.0,
        total_puzzles=groups,
        sets=("all",),
        extra={**extra, "content_hash": _content_hash(arrays)},
    ).write(folder)


def _content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of names, types, shapes and values, in hexadecimal."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
