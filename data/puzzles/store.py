"""The examples of merged datasets under one running number."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32, Int64

from configs import UserError, require
from data.puzzles.metadata import Metadata, merge, recorded_hash
from data.puzzles.reading import PuzzleSet
from data.puzzles.sampler import Index
from data.remote import local_dataset


class PuzzleStore:
    """The sets of all datasets, one after the other.

    The identifiers of each dataset are offset by the number of identifiers of the
    datasets before it; only the blank identifier is shared. So identifiers depend on
    the order of the datasets. (The official code has a table of the same size but adds
    no offset, so identifiers may collide.)

    Attributes:
        metadata: metadata of the merged dataset.
        folders: the split's folder in each dataset.
        index: first running numbers of groups and puzzles.
    """

    metadata: Metadata
    folders: Sequence[Path]
    index: Index

    def __init__(self, paths: Sequence[str | Path], split: str):
        """Open and check the split of the datasets in `paths`."""
        self.folders = [_folder(local_dataset(path), split) for path in paths]
        _check_repeats(self.folders)
        parts = [Metadata.read(folder) for folder in self.folders]
        self.metadata = merge(parts, [str(folder) for folder in self.folders])
        self._sets: list[PuzzleSet] = []
        self._offsets: list[int] = []
        offset = 0
        for folder, part in zip(self.folders, parts, strict=True):
            opened = [PuzzleSet(folder, name, part) for name in part.sets]
            _check_counts(folder, part, opened)
            self._sets += opened
            self._offsets += [offset] * len(opened)
            offset += part.num_puzzle_identifiers
        sets = self._sets
        self._first_examples = np.cumsum([0, *map(len, sets)])
        self._first_puzzles = np.cumsum([0, *(part.num_puzzles for part in sets)])
        flat = all(part.puzzles is None for part in sets)
        puzzles = [_ends(part) for part in sets] if not flat else []
        self.index = Index(
            groups=_chain([part.groups for part in sets]),
            puzzles=None if flat else _chain(puzzles),
        )

    def __len__(self) -> int:
        """Return the number of examples."""
        return int(self._first_examples[-1])

    def gather(
        self, examples: Int[np.ndarray, " rows"], puzzles: Int[np.ndarray, " rows"]
    ) -> tuple[
        Int32[np.ndarray, "rows seq"],
        Int32[np.ndarray, "rows seq"],
        Int32[np.ndarray, " rows"],
    ]:
        """Return inputs, labels and identifiers of examples.

        Args:
            examples: running numbers of examples.
            puzzles: running number of each example's puzzle.

        Raises:
            UserError: if a token or an identifier is out of range.
        """
        if len(self._sets) == 1:
            identifiers = self._sets[0].identifiers(puzzles)
            return *self._sets[0].take(examples), identifiers.astype(np.int32)
        shape = (len(examples), self.metadata.seq_len)
        inputs, labels = np.empty(shape, np.int32), np.empty(shape, np.int32)
        identifiers = np.empty(len(examples), np.int32)
        blank = self.metadata.blank_identifier_id
        owners = self._first_examples.searchsorted(examples, side="right") - 1
        for i, part in enumerate(self._sets):
            at = np.flatnonzero(owners == i)
            inputs[at], labels[at] = part.take(examples[at] - self._first_examples[i])
            ids = part.identifiers(puzzles[at] - self._first_puzzles[i])
            identifiers[at] = np.where(ids == blank, ids, ids + self._offsets[i])
        return inputs, labels, identifiers


def _folder(path: Path, split: str) -> Path:
    """Return the folder of a split."""
    require(
        path.is_dir(),
        f"Dataset not found: {path}. Check the path, or build the dataset with "
        "`python -m data.prepare`.",
    )
    if not (path / split).is_dir():
        names = sorted(child.name for child in path.iterdir() if child.is_dir())
        raise UserError(
            f"Split {split!r} not found: {path} has {', '.join(names) or 'no folder'}. "
            "Choose another split or rebuild the dataset."
        )
    return path / split


def _check_repeats(folders: Sequence[Path]) -> None:
    """Refuse a repeated folder; warn of equal data, also of equal splits."""
    paths = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, paths, strict=True):
        require(
            paths.count(path) == 1,
            f"Merged datasets must be different: got {folder.parent} twice. Remove "
            "one.",
        )
    known: dict[str, Path] = {}
    for folder in folders:
        splits = [folder, folder.with_name("test")][: 1 + (folder.name == "train")]
        for split in splits:
            digest = recorded_hash(split)
            if digest and (other := known.setdefault(digest, split)) != split:
                warnings.warn(
                    f"{other} and {split} contain the same puzzles (content hash "
                    f"{digest}).",
                    stacklevel=5,
                )


def _check_counts(folder: Path, metadata: Metadata, sets: Sequence[PuzzleSet]) -> None:
    """Raise `UserError` unless the metadata has the counts of the arrays."""
    groups = sum(len(part.groups) - 1 for part in sets)
    mean = sum(map(len, sets)) / sum(part.num_puzzles for part in sets)
    for name, value, tolerance in (
        ("total_groups", groups, 0.0),
        ("mean_puzzle_examples", mean, 1e-3),
    ):
        recorded = getattr(metadata, name)
        require(
            math.isclose(recorded, value, rel_tol=tolerance),
            f"`{name}` must match the arrays: got {recorded} in {folder}, whose arrays "
            f"have {value:.10g}. Correct `dataset.json`, or rebuild the dataset with "
            "`python -m data.prepare`.",
        )


def _ends(part: PuzzleSet) -> Int64[np.ndarray, " puzzle_ends"]:
    """Return the first example of each puzzle of a set, and their number."""
    return np.arange(len(part) + 1) if part.puzzles is None else part.puzzles


def _chain(indices: Sequence[Int64[np.ndarray, " _"]]) -> Int64[np.ndarray, " ends"]:
    """Return the range ends of several sets in running numbers."""
    totals = np.cumsum([0, *(index[-1] for index in indices)])
    moved = [index[1:] + total for index, total in zip(indices, totals, strict=False)]
    return np.concatenate([np.zeros(1, np.int64), *moved])
