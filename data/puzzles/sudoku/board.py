"""The boards of Sudoku and their rules."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8


class Box(NamedTuple):
    """The shape of a box: a board has `rows * columns` rows, columns and digits."""

    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Rows, columns and digits of the board."""
        return self.rows * self.columns

    @property
    def of_cell(self) -> Int[np.ndarray, " seq"]:
        """The number of each cell's box."""
        row, column = np.divmod(np.arange(self.size**2), self.size)
        return row // self.rows * self.rows + column // self.columns


BOXES = {4: Box(2, 2), 6: Box(2, 3), 9: Box(3, 3)}


def is_solved(boards: UInt8[np.ndarray, "boards seq"], box: Box) -> np.ndarray:
    """Check that every row, column and box of each board has all digits."""
    bits = np.left_shift(1, boards.astype(np.int32))
    row, column = np.divmod(np.arange(box.size**2), box.size)
    solved = np.ones(len(boards), bool)
    for unit_of_cell in (row, column, box.of_cell):
        cells = np.argsort(unit_of_cell, kind="stable").reshape(box.size, -1)
        for unit in cells:
            digits = np.bitwise_or.reduce(bits[:, unit], axis=1)
            solved &= digits == (1 << box.size + 1) - 2
    return solved
