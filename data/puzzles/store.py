"""The examples of all sets of all given datasets, addressed by one running number."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32, Int64

from configs import UserError
from data.puzzles.metadata import Metadata, merge, recorded_hash
from data.puzzles.reading import PuzzleSet
from data.puzzles.sampler import Index
from data.remote import local_dataset


class PuzzleStore:
    """Sets of examples, one behind the other.

    Datasets merged here keep their identifiers apart: each one's are moved up by the
    number of identifiers of those before it, and only the blank one is shared. So the
    datasets must be named in the same order wherever identifiers are to mean the same.
    (The official code sizes its table likewise but leaves the identifiers alone, which
    may then collide.)

    Attributes:
        metadata: of all datasets together.
        folders: of the split of each dataset.
        index: where groups and puzzles begin in the running numbers.
    """

    metadata: Metadata
    folders: Sequence[Path]
    index: Index

    def __init__(self, paths: Sequence[str | Path], split: str):
        """Open and check one split of the datasets in `paths`."""
        self.folders = [_folder(local_dataset(path), split) for path in paths]
        _check_repeats(self.folders)
        parts = [Metadata.read(folder) for folder in self.folders]
        self.metadata = merge(parts, [str(folder) for folder in self.folders])
        self._sets: list[PuzzleSet] = []
        self._offsets: list[int] = []
        offset = 0
        for folder, part in zip(self.folders, parts, strict=True):
            own = [PuzzleSet(folder, name, part) for name in part.sets]
            _check_counts(folder, part, own)
            self._sets += own
            self._offsets += [offset] * len(own)
            offset += part.num_puzzle_identifiers
        sets = self._sets
        self._first_examples = np.cumsum([0, *map(len, sets)])
        self._first_puzzles = np.cumsum([0, *(own.num_puzzles for own in sets)])
        flat = all(own.puzzles is None for own in sets)
        puzzles = [_ends(own) for own in sets] if not flat else []
        self.index = Index(
            groups=_chain([own.groups for own in sets]),
            puzzles=None if flat else _chain(puzzles),
        )

    def __len__(self) -> int:
        """The number of examples."""
        return int(self._first_examples[-1])

    def gather(
        self, examples: Int[np.ndarray, " rows"], puzzles: Int[np.ndarray, " rows"]
    ) -> tuple[
        Int32[np.ndarray, "rows seq"],
        Int32[np.ndarray, "rows seq"],
        Int32[np.ndarray, " rows"],
    ]:
        """Inputs, labels and identifiers of examples of these running numbers.

        Args:
            examples: their numbers.
            puzzles: the puzzle of each.

        Raises:
            UserError: if a token or an identifier of theirs is out of range.
        """
        if len(self._sets) == 1:
            identifiers = self._sets[0].identifiers(puzzles)
            return *self._sets[0].take(examples), identifiers.astype(np.int32)
        shape = (len(examples), self.metadata.seq_len)
        inputs, labels = np.empty(shape, np.int32), np.empty(shape, np.int32)
        identifiers = np.empty(len(examples), np.int32)
        blank = self.metadata.blank_identifier_id
        owners = self._first_examples.searchsorted(examples, side="right") - 1
        for i, own in enumerate(self._sets):
            at = np.flatnonzero(owners == i)
            inputs[at], labels[at] = own.take(examples[at] - self._first_examples[i])
            ids = own.identifiers(puzzles[at] - self._first_puzzles[i])
            identifiers[at] = np.where(ids == blank, ids, ids + self._offsets[i])
        return inputs, labels, identifiers


def _folder(path: Path, split: str) -> Path:
    """The folder of a split."""
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


def _check_repeats(folders: Sequence[Path]) -> None:
    """Refuse a folder given twice; warn of equal data, in training and test too."""
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise UserError(
                f"Merged datasets must be different ones: got {folder.parent} twice. "
                "Name each once."
            )
    known: dict[str, Path] = {}
    for folder in folders:
        splits = [folder, folder.with_name("test")][: 1 + (folder.name == "train")]
        for split in splits:
            digest = recorded_hash(split)
            if digest and (other := known.setdefault(digest, split)) != split:
                warnings.warn(
                    f"{other} and {split} hold the same puzzles (content hash "
                    f"{digest}).",
                    stacklevel=5,
                )


def _check_counts(folder: Path, metadata: Metadata, sets: Sequence[PuzzleSet]) -> None:
    """Raise `UserError` unless the metadata counts what the arrays hold."""
    groups = sum(len(own.groups) - 1 for own in sets)
    mean = sum(map(len, sets)) / sum(own.num_puzzles for own in sets)
    said = metadata.mean_puzzle_examples
    wrong = ""
    if metadata.total_groups != groups:
        wrong = f"`total_groups` is {metadata.total_groups}, and there are {groups}"
    elif not math.isclose(said, mean, rel_tol=1e-3):
        wrong = f"`mean_puzzle_examples` is {said}, and puzzles have {mean:.6g}"
    if wrong:
        raise UserError(
            f"Metadata must count what the arrays hold: in {folder} {wrong}. Correct "
            "`dataset.json`, or rebuild the dataset with `python -m data.prepare`."
        )


def _ends(own: PuzzleSet) -> Int64[np.ndarray, " puzzle_ends"]:
    """The first example of each puzzle of a set, and their number."""
    return np.arange(len(own) + 1) if own.puzzles is None else own.puzzles


def _chain(indices: Sequence[Int64[np.ndarray, " _"]]) -> Int64[np.ndarray, " ends"]:
    """The range ends of several sets counted through."""
    totals = np.cumsum([0, *(own[-1] for own in indices)])
    moved = [own[1:] + total for own, total in zip(indices, totals, strict=False)]
    return np.concatenate([np.zeros(1, np.int64), *moved])
