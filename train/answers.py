"""What is kept of the answers to puzzles: votes, and files."""

from pathlib import Path
from typing import Any

import numpy as np

from data.puzzles.arc.voting import Votes

Arrays = dict[str, np.ndarray]
"""Puzzles and what is answered, a row each."""


class KeptAnswers:
    """The answers of a checkpoint, as far as they are needed; tokens in 8 bits if so.

    Args:
        votes: that answers count for; None without any.
        everything: whether `save` will be asked for.
    """

    def __init__(self, votes: Votes | None, everything: bool):
        self._votes, self._everything = votes, everything
        self._parts: list[Arrays] = []

    def __call__(self, arrays: Arrays) -> None:
        """Take in what a queue gave."""
        if self._votes is not None:
            names = ("puzzle_id", "inputs", "predictions", "q_halt")
            self._votes.add(*(arrays[name] for name in names))
        if self._everything:
            narrow = {
                name: array.astype(np.min_scalar_type(int(array.max(initial=0))))
                for name, array in arrays.items()
                if name in ("inputs", "predictions")
            }
            self._parts.append(arrays | narrow)

    def save(self, path: Path) -> None:
        """Write the answers."""
        parts = self._parts
        whole: Any = {
            name: np.concatenate([p[name] for p in parts]) for name in parts[0]
        }
        np.savez_compressed(path, **whole)


def named(file: str, step: int, several: bool) -> Path:
    """The path of a file, with the step in its name where there are several."""
    path = Path(file)
    return path.with_stem(f"{path.stem}-{step}") if several else path
