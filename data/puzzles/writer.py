"""Writing a Sudoku dataset in the official format, whole or not at all."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from data.folder import new_folder
from data.puzzles.metadata import Metadata


class Boards(NamedTuple):
    """The boards of a split: digits row by row, 0 for an empty cell."""

    questions: UInt8[np.ndarray, "boards seq"]
    answers: UInt8[np.ndarray, "boards seq"]
    images: int = 1
    """Boards of a group: a puzzle and its images stand together."""


def write_sudoku(
    splits: Mapping[str, Boards], out: Path, extra: Mapping[str, object]
) -> None:
    """Write a dataset of boards to `out`, which appears only when complete.

    Args:
        splits: boards by the name of the split.
        out: the folder to make.
        extra: further keys for `dataset.json`, next to `content_hash`.

    Raises:
        UserError: if `out` is not vacant.
    """
    with new_folder(out) as folder:
        for name, boards in splits.items():
            _write_split(boards, folder / name, extra)
        text = json.dumps(["<blank>"])
        (folder / "identifiers.json").write_text(text, encoding="utf-8")


def _write_split(boards: Boards, folder: Path, extra: Mapping[str, object]) -> None:
    """Write the five arrays and `dataset.json` of one split."""
    folder.mkdir(parents=True)
    count, seq = boards.questions.shape
    arrays = {
        "inputs": boards.questions + np.uint8(1),
        "labels": boards.answers + np.uint8(1),
        "puzzle_identifiers": np.zeros(count, np.int32),
        "puzzle_indices": np.arange(count + 1, dtype=np.int32),
        "group_indices": np.arange(0, count + 1, boards.images, dtype=np.int32),
    }
    for name, array in arrays.items():
        np.save(folder / f"all__{name}.npy", array)
    groups = count // boards.images
    Metadata(
        pad_id=0,
        ignore_label_id=0,
        blank_identifier_id=0,
        vocab_size=int(seq**0.5) + 2,
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
