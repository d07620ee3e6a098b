"""Symmetries of puzzles: moved cells and renamed tokens keep a solution one."""

from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer, Shaped

SYMMETRIES = 8
"""Of a square."""

INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)
"""The inverse of each symmetry of the square."""


class Symmetry(NamedTuple):
    """A symmetry of boards of one size, or of a batch: `tokens[board[cells]]`.

    Not generic in the array type, since beartype 0.23 rejects generic named tuples.
    """

    cells: Int[Any, "*batch seq"]
    """Cell that moves to each cell."""

    tokens: Int[Any, "*batch vocab"]
    """New name of each token."""

    def apply(
        self, boards: Integer[np.ndarray, "*boards seq"]
    ) -> Integer[np.ndarray, "*boards seq"]:
        """Return the boards as seen under a single symmetry."""
        return self.tokens[boards[..., self.cells]]

    def inverse(self) -> "Symmetry":
        """Return the symmetry that turns back."""
        return Symmetry(np.argsort(self.cells), np.argsort(self.tokens))


def views(symmetries: Iterator[Symmetry], number: int) -> Symmetry:
    """Return a batch of `number` symmetries: the identity, then those drawn."""
    drawn = list(islice(symmetries, number))
    identity = Symmetry(*map(np.sort, drawn[0]))
    batch = zip(*[identity, *drawn[:-1]], strict=True)
    return Symmetry(*(np.stack(arrays).astype(np.int32) for arrays in batch))


def of_square(side: int, vocab: int, rng: np.random.Generator) -> Iterator[Symmetry]:
    """Yield the symmetries of the square in random order, the identity last.

    They are repeated without end.
    """
    cells = np.arange(side**2).reshape(side, side)
    for symmetry in cycle([*rng.permutation(np.arange(1, SYMMETRIES)).tolist(), 0]):
        yield Symmetry(turn(cells, symmetry).reshape(-1), np.arange(vocab))


def turn(
    grids: Shaped[np.ndarray, "*batch rows columns"], symmetry: int
) -> Shaped[np.ndarray, "*batch _ _"]:
    """Apply one of the 8 symmetries to the last two axes.

    Args:
        grids: the grids.
        symmetry: 0 to 3: quarter turns counterclockwise. 4: left and right swapped; 5:
            top and bottom; 6: transposed; 7: transposed along the other diagonal.
    """
    match symmetry:
        case 0:
            return grids
        case 1:
            return grids.swapaxes(-1, -2)[..., ::-1, :]
        case 2:
            return grids[..., ::-1, ::-1]
        case 3:
            return grids.swapaxes(-1, -2)[..., ::-1]
        case 4:
            return grids[..., ::-1]
        case 5:
            return grids[..., ::-1, :]
        case 6:
            return grids.swapaxes(-1, -2)
        case 7:
            return grids.swapaxes(-1, -2)[..., ::-1, ::-1]
        case _:
            raise ValueError(f"A symmetry must be 0 to 7: got {symmetry}.")
