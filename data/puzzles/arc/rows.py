"""A pair of ARC grids as a row of tokens for a GPT.

A row is `task symmetry INPUT / OUTPUT .`: two labels, the cells of the input line by
line, each line with an end; a separator; the output in the same way; the end. Colors
are tokens 0 to 9. The labels come after all tokens of a grid: first the 8 symmetries,
then the tasks. A GPT that gets a prompt up to the separator writes the rest.

Source: mvakde/mdlARC at 8afc20d, `src/common.py`, `encode_example`. There, a row begins
with a token of its own, and the labels are beside it.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from data.puzzles.arc.grid import COLORS, FIRST, SIDE, as_canvas, parse_name
from data.puzzles.symmetry import SYMMETRIES

LINE_END, SEPARATOR, END = range(COLORS, COLORS + 3)
"""Tokens after a line of a grid, between input and output, and after the output."""

OUTPUTS = END + 1
"""Tokens that a GPT writes are 0 .. OUTPUTS - 1; labels follow."""

LABELS = 2
"""Labels in front of a row: task and symmetry."""

FIRST_TASK = OUTPUTS + SYMMETRIES


def longest_row(side: int = SIDE) -> int:
    """Return the tokens of a row of two grids of `side` rows and columns."""
    return LABELS + 2 * side * (side + 1) + 2


def labels_of(names: Sequence[str]) -> tuple[Int32[np.ndarray, "names 2"], int]:
    """Return the labels of puzzles, and the number of tasks.

    Args:
        names: of the puzzles, as in `identifiers.json`. The augmentations of a task
            follow each other.
    """
    tasks: dict[str, int] = {}
    labels = np.empty((len(names), LABELS), np.int32)
    for number, name in enumerate(names):
        task, symmetry, _ = parse_name(name)
        labels[number] = FIRST_TASK + tasks.setdefault(task, len(tasks)), symmetry
    labels[:, 1] += OUTPUTS
    return labels, len(tasks)


def lines(grid: UInt8[np.ndarray, "rows columns"]) -> Int32[np.ndarray, " tokens"]:
    """Return the tokens of a grid."""
    return np.pad(
        grid.astype(np.int32), ((0, 0), (0, 1)), constant_values=LINE_END
    ).reshape(-1)


def prompt_of(
    labels: Int32[np.ndarray, " 2"], given: UInt8[np.ndarray, "rows columns"]
) -> Int32[np.ndarray, " tokens"]:
    """Return a row up to its separator."""
    return np.concatenate([labels, lines(given), [SEPARATOR]], dtype=np.int32)


def row_of(
    prompt: Int32[np.ndarray, " prompt"], wanted: UInt8[np.ndarray, "rows columns"]
) -> Int32[np.ndarray, " tokens"]:
    """Return the row of a prompt and its output."""
    return np.concatenate([prompt, lines(wanted), [END]], dtype=np.int32)


def answer_of(
    tokens: Integer[np.ndarray, " tokens"],
) -> UInt8[np.ndarray, "rows columns"] | None:
    """Return the grid of an answer, the tokens after a separator up to the end.

    None if they are no grid of at most 30 rows and columns, or have no end.
    """
    ends = np.flatnonzero(tokens == END)
    if not ends.size or not ends[0]:
        return None
    tokens = tokens[: ends[0]]
    width = int(np.argmax(tokens == LINE_END)) + 1  # with the end of the line
    if width < 2 or tokens.size % width:
        return None
    grid = tokens.reshape(-1, width)
    if max(grid.shape[0], width - 1) > SIDE or not (
        (grid[:, :-1] < COLORS).all() and (grid[:, -1] == LINE_END).all()
    ):
        return None
    return grid[:, :-1].astype(np.uint8)


def cut_out(
    tokens: Integer[np.ndarray, " cells"],
) -> UInt8[np.ndarray, "rows columns"]:
    """Return the grid on a canvas, wherever it is."""
    canvas = as_canvas(tokens)
    rows, columns = (
        np.flatnonzero((canvas >= FIRST).any(axis=axis)) for axis in (1, 0)
    )
    grid = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return (grid - FIRST).astype(np.uint8)
