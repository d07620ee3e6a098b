"""Open and check the five arrays of one set of a dataset.

A set is a list of groups, a group a range of puzzles (augmentations of each other), and
a puzzle a range of examples. `group_indices[g]` is the first puzzle of group g,
`puzzle_indices[p]` the first example of puzzle p.

Opening reads no tokens. They are checked batch by batch, when they are used.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32, Int64, Integer

from configs import UserError
from data.puzzles.metadata import Metadata

CHECKED = 1 << 24
"""Most entries of an index that are checked on opening (0.1 s). Larger ones are checked
where they are used."""


class PuzzleSet:
    """One set of a split, mapped from disk.

    Attributes:
        groups: first puzzle of each group, then the number of puzzles.
        puzzles: first example of each puzzle, then the number of examples; None if
            every puzzle has one example.
        num_puzzles: puzzles of all groups.
    """

    groups: Int64[np.ndarray, " group_ends"]
    puzzles: Int64[np.ndarray, " puzzle_ends"] | None
    num_puzzles: int

    def __init__(self, folder: Path, name: str, metadata: Metadata):
        """Open the set `name` of the split in `folder`.

        Raises:
            UserError: if a file is missing or unreadable, or breaks the format.
        """
        self._where = f"{folder}/{name}__"
        self._metadata = metadata
        self._inputs = self._open("inputs")
        self._labels = self._open("labels")
        for field, array in (("inputs", self._inputs), ("labels", self._labels)):
            if array.ndim != 2 or array.shape[1] != metadata.seq_len or not len(array):
                wanted = f"the shape (examples, {metadata.seq_len})"
                raise _broken(self._where + field, wanted, f"{array.shape}")
        if len(self._inputs) != len(self._labels):
            wanted = f"{len(self)} rows, as inputs"
            raise _broken(self._where + "labels", wanted, f"{len(self._labels)}")
        puzzles = self._open_index("puzzle_indices", len(self), "examples")
        self.num_puzzles = len(puzzles) - 1
        groups = self._open_index("group_indices", self.num_puzzles, "puzzles")
        self.groups = groups.astype(np.int64)
        flat = self.num_puzzles == len(self)
        self.puzzles = None if flat else puzzles.astype(np.int64)
        self._identifiers = self._open("puzzle_identifiers")
        if self._identifiers.shape != (self.num_puzzles,):
            wanted = f"the shape ({self.num_puzzles},), one for each puzzle"
            got = f"{self._identifiers.shape}"
            raise _broken(self._where + "puzzle_identifiers", wanted, got)
        if self.num_puzzles <= CHECKED:
            self._check_identifiers(self._identifiers, np.arange(self.num_puzzles))

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._inputs)

    def take(
        self, examples: Int[np.ndarray, " rows"]
    ) -> tuple[Int32[np.ndarray, "rows seq"], Int32[np.ndarray, "rows seq"]]:
        """Return inputs and labels of examples.

        Raises:
            UserError: if a token is outside the vocabulary.
        """
        inputs = self._inputs.take(examples, axis=0)
        labels = self._labels.take(examples, axis=0)
        size, ignored = self._metadata.vocab_size, self._metadata.ignore_label_id
        _check(self._where + "inputs", inputs, examples, size, None)
        _check(self._where + "labels", labels, examples, size, ignored)
        return inputs.astype(np.int32), labels.astype(np.int32)

    def identifiers(
        self, puzzles: Int[np.ndarray, " rows"]
    ) -> Int64[np.ndarray, " rows"]:
        """Return the identifiers of puzzles.

        Raises:
            UserError: if one is out of range.
        """
        identifiers = self._identifiers.take(puzzles)
        self._check_identifiers(identifiers, puzzles)
        return identifiers.astype(np.int64)

    def _check_identifiers(
        self,
        identifiers: Integer[np.ndarray, " rows"],
        puzzles: Int[np.ndarray, " rows"],
    ) -> None:
        """Raise `UserError` unless the identifiers of `puzzles` are in range."""
        size = self._metadata.num_puzzle_identifiers
        _check(self._where + "puzzle_identifiers", identifiers, puzzles, size, None)

    def _open(self, field: str) -> Integer[np.ndarray, "..."]:
        """Map the array of a field from disk."""
        path = Path(f"{self._where}{field}.npy")
        if not path.is_file():
            raise UserError(
                f"Array file not found: {path}. Copy it there, or rebuild the dataset "
                "with `python -m data.prepare`."
            )
        try:
            # As a plain array: slices of a memmap are slow to make.
            array = np.asarray(np.lib.format.open_memmap(path, mode="r"))
        except (ValueError, OSError, EOFError, OverflowError) as e:
            raise _broken(f"{path}", "a readable .npy array", f"{e}") from None
        if not np.issubdtype(array.dtype, np.integer):
            raise _broken(f"{path}", "integers", f"{array.dtype}")
        return array

    def _open_index(
        self, field: str, total: int, of: str
    ) -> Integer[np.ndarray, " ends"]:
        """Open an index that divides `total` items into ranges, none of them empty."""
        indices, where = self._open(field), self._where + field
        if indices.ndim != 1 or len(indices) < 2:
            raise _broken(where, "one dimension and two entries", f"{indices.shape}")
        if indices[0] != 0:
            raise _broken(where, "a first entry of 0", f"{indices[0]}")
        if indices[-1] != total:
            raise _broken(where, f"a last entry of {total}, all {of}", f"{indices[-1]}")
        if len(indices) == total + 1 > CHECKED:
            return indices  # each range must have one entry; only used ones matter
        if (falls := np.flatnonzero(indices[1:] <= indices[:-1])).size:
            at = int(falls[0])
            got = f"{indices[at]} and {indices[at + 1]} at {at} and {at + 1}"
            wanted = f"increasing entries (no empty range of {of})"
            raise _broken(where, wanted, got)
        return indices


def _check(
    where: str,
    rows: Integer[np.ndarray, "..."],
    numbers: Int[np.ndarray, " rows"],
    size: int,
    ignored: int | None,
) -> None:
    """Raise `UserError` unless all values are `ignored` or in 0 .. size - 1.

    Args:
        where: path of the array.
        rows: the values.
        numbers: the array's row of each value.
        size: values must be less.
        ignored: a value to accept in any case.
    """
    if not rows.size or (rows.min() >= 0 and rows.max() < size):
        return
    wrong = (rows < 0) | (rows >= size)
    if ignored is not None:
        wrong &= rows != ignored
    if wrong.any():
        row, *rest = (int(i) for i in np.argwhere(wrong)[0])
        at = (int(numbers[row]), *rest)
        wanted = f"values from 0 to {size - 1}"
        raise _broken(where, wanted, f"{rows[(row, *rest)]} at {at}")


def _broken(where: str, wanted: str, got: str) -> UserError:
    """Return the error for an array that breaks the format."""
    return UserError(
        f"`{where.removesuffix('.npy')}.npy` must have {wanted}: got {got}. "
        "Rebuild the dataset with `python -m data.prepare`, or correct `dataset.json` "
        "where that is wrong."
    )
