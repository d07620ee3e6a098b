"""Symmetries of Sudoku: renamed digits, reordered lines, swapped axes.

Boards are arrays of digits, row by row; 0 is an empty cell.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from data.puzzles.sudoku.board import Box
from data.puzzles.symmetry import Symmetry

CHUNK = 1 << 16  # boards moved in one go: the index of 9x9 boards then takes 42 MB


class Symmetries(NamedTuple):
    """Symmetries, one for each augmented board.

    Cell (r, c) of an augmented board is cell (lines[0][r], lines[1][c]) of the board
    (or of its transpose), and digit d becomes digits[d].
    """

    digits: UInt8[np.ndarray, "boards size+1"]
    lines: tuple[Int[np.ndarray, "boards size"], Int[np.ndarray, "boards size"]]
    transposed: Bool[np.ndarray, " boards"]

    def cells(self, at: slice) -> Int[np.ndarray, "some seq"]:
        """Return the cell that moves to each cell of the boards `at`."""
        rows, columns = self.lines
        size = rows.shape[1]
        row, column = rows[at, :, None], columns[at, None, :]
        flip = self.transposed[at, None, None]
        cells = np.where(flip, column * size + row, row * size + column)
        return cells.reshape(len(cells), size**2)


def draw_symmetries(rng: np.random.Generator, count: int, box: Box) -> Symmetries:
    """Draw symmetries uniformly from the group.

    Bands and the rows of a band are permuted; likewise columns. Half of the boards are
    transposed, but none if boxes are not square.

    Source: official `dataset/build_sudoku_dataset.py`, `shuffle_sudoku`.
    """
    names = np.tile(np.arange(1, box.size + 1, dtype=np.uint8), (count, 1))
    names = rng.permuted(names, axis=1)
    digits = np.concatenate([np.zeros((count, 1), np.uint8), names], axis=1)
    rows = _draw_lines(rng, count, bands=box.columns, width=box.rows)
    columns = _draw_lines(rng, count, bands=box.rows, width=box.columns)
    transposed = rng.random(count) < 0.5
    if box.rows != box.columns:
        transposed[:] = False
    return Symmetries(digits, (rows, columns), transposed)


def random_symmetries(rng: np.random.Generator, box: Box) -> Iterator[Symmetry]:
    """Yield symmetries of a dataset's tokens: 0 pads, 1 is empty, d + 1 is digit d."""
    while True:
        drawn = draw_symmetries(rng, 1, box)
        tokens = np.array([0, *drawn.digits[0] + 1])
        yield Symmetry(drawn.cells(slice(1))[0], tokens)


def apply(
    symmetries: Symmetries, boards: UInt8[np.ndarray, "boards seq"]
) -> UInt8[np.ndarray, "boards seq"]:
    """Apply a symmetry to each board."""
    moved = np.empty_like(boards)
    for start in range(0, len(boards), CHUNK):
        at = slice(start, start + CHUNK)
        old = np.take_along_axis(boards[at], symmetries.cells(at), axis=1)
        moved[at] = np.take_along_axis(symmetries.digits[at], old, axis=1)
    return moved


def augment(
    questions: UInt8[np.ndarray, "puzzles seq"],
    answers: UInt8[np.ndarray, "puzzles seq"],
    count: int,
    box: Box,
    rng: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "all seq"], UInt8[np.ndarray, "all seq"]]:
    """Return every puzzle, followed by `count` random augmentations of it."""
    symmetries = draw_symmetries(rng, len(questions) * count, box)

    def extend(boards: UInt8[np.ndarray, "puzzles seq"]) -> np.ndarray:
        turned = apply(symmetries, np.repeat(boards, count, axis=0))
        turned = turned.reshape(len(boards), count, box.size**2)
        joined = np.concatenate([boards[:, None], turned], axis=1)
        return joined.reshape(-1, box.size**2)

    return extend(questions), extend(answers)


def _draw_lines(
    rng: np.random.Generator, count: int, *, bands: int, width: int
) -> Int[np.ndarray, "boards size"]:
    """Draw orders of lines in which every band stays together."""
    band = rng.permuted(np.tile(np.arange(bands), (count, 1)), axis=1)
    inner = rng.permuted(np.tile(np.arange(width), (count * bands, 1)), axis=1)
    inner = inner.reshape(count, bands, width)
    return (band[:, :, None] * width + inner).reshape(count, bands * width)
