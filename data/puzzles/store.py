"""The examples of all sets of all given datasets, addressed by one running number."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32

from configs import UserError
from data.puzzles.metadata import Metadata, merge
from data.puzzles.reading import Arrays, read_arrays
from data.puzzles.sampler import Index


class PuzzleStore:
    """Sets of examples, one behind the other.

    Datasets merged here keep their identifiers apart: each one's are moved up by the
    number of identifiers of those before it, and only the blank one is shared. So the
    datasets must be named in the same order wherever identifiers are to mean the same.
    (The official code sizes its table likewise but leaves the identifiers alone, which
    may then collide.)

    Attributes:
        metadata: of all datasets together.
        index: where groups and puzzles begin in the running numbers.
        identifiers: of every puzzle.
    """

    metadata: Metadata
    index: Index
    identifiers: Int32[np.ndarray, " puzzles"]

    def __init__(self, paths: Sequence[str | Path], split: str):
        """Open and check one split of the datasets in `paths`."""
        folders = [_folder(Path(path), split) for path in paths]
        parts = [Metadata.read(folder) for folder in folders]
        self.metadata = merge(parts, [str(folder) for folder in folders])
        self._arrays: list[Arrays] = []
        identifiers, offset = [], 0
        for folder, part in zip(folders, parts, strict=True):
            for name in part.sets:
                self._arrays.append(read_arrays(folder, name, part))
                own = self._arrays[-1].puzzle_identifiers.astype(np.int64)
                blank = own == part.blank_identifier_id
                identifiers.append(np.where(blank, own, own + offset))
            offset += part.num_puzzle_identifiers
        self.identifiers = np.concatenate(identifiers).astype(np.int32)
        self.index = Index(
            groups=_chain(
                [arrays.group_indices.astype(np.int64) for arrays in self._arrays]
            ),
            puzzles=_chain(
                [arrays.puzzle_indices.astype(np.int64) for arrays in self._arrays]
            ),
        )
        sizes = [len(arrays.inputs) for arrays in self._arrays]
        self._firsts = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        """Return the number of examples."""
        return int(self._firsts[-1])

    def gather(
        self, examples: Int[np.ndarray, " rows"]
    ) -> tuple[Int32[np.ndarray, "rows seq"], Int32[np.ndarray, "rows seq"]]:
        """Return inputs and labels of the examples with these running numbers."""
        shape = (len(examples), self.metadata.seq_len)
        inputs, labels = np.empty(shape, np.int32), np.empty(shape, np.int32)
        owners = self._firsts.searchsorted(examples, side="right") - 1
        for i, arrays in enumerate(self._arrays):
            at = np.flatnonzero(owners == i)
            local = examples[at] - self._firsts[i]
            inputs[at] = arrays.inputs[local]
            labels[at] = arrays.labels[local]
        return inputs, labels


def _folder(path: Path, split: str) -> Path:
    """Return the folder of a split."""
    if not path.is_dir():
        raise UserError(
            f"A dataset must be an existing directory: there is no {path}. "
            "Check the path, or build the dataset with `python -m data.prepare`."
        )
    if not (path / split).is_dir():
        found = sorted(child.name for child in path.iterdir() if child.is_dir())
        raise UserError(
            f"A dataset must have a folder for the split {split!r}: {path} has "
            f"{', '.join(found) or 'no folder'}. Name another split or rebuild it."
        )
    return path / split


def _chain(indices: Sequence[Int[np.ndarray, " _"]]) -> Int[np.ndarray, " ends"]:
    """Return the range ends of several sets counted through."""
    totals = np.cumsum([0, *(own[-1] for own in indices)])
    moved = [own[1:] + total for own, total in zip(indices, totals, strict=False)]
    return np.concatenate([np.zeros(1, np.int64), *moved])
