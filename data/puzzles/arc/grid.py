"""Grids of the Abstraction and Reasoning Corpus (ARC): tokens, symmetries, names.

A grid has 1 to 30 rows and columns of colors 0 to 9. Its tokens are a canvas of 30x30,
or a smaller square: 0 pads, 1 is the border on the right and below, color c is c + 2.
An augmentation is one of the 8 symmetries of the square and a permutation of the colors
1 to 9. It is a part of the puzzle's name: `007bbfb7|||t3|||0254631798`.

Source: official `dataset/build_arc_dataset.py`, `dataset/common.py` and
`evaluators/arc.py` (`_crop`).
"""

import math

import numpy as np
from jaxtyping import Integer, Shaped, UInt8

from data.puzzles.symmetry import INVERSE, turn

SIDE = 30
"""Largest side of a grid."""

COLORS = 10
PAD, BORDER, FIRST = 0, 1, 2
"""Tokens: outside of the grid, its border, and color 0."""

VOCAB = FIRST + COLORS
SEPARATOR = "|||"


def augmented_name(name: str, symmetry: int, colors: UInt8[np.ndarray, "10"]) -> str:
    """Return the name of an augmentation in which color c becomes `colors[c]`."""
    digits = "".join(map(str, colors.tolist()))
    return f"{name}{SEPARATOR}t{symmetry}{SEPARATOR}{digits}"


def parse_name(name: str) -> tuple[str, int, UInt8[np.ndarray, "10"]]:
    """Return the task, the symmetry and the colors in a puzzle's name."""
    if SEPARATOR not in name:
        return name, 0, np.arange(COLORS, dtype=np.uint8)
    symmetry, colors = name.split(SEPARATOR)[-2:]
    digits = np.frombuffer(colors.encode(), np.uint8) - np.uint8(ord("0"))
    return name.split(SEPARATOR)[0], int(symmetry.removeprefix("t")), digits


def undo(
    grid: UInt8[np.ndarray, "rows columns"],
    symmetry: int,
    colors: UInt8[np.ndarray, "10"],
) -> UInt8[np.ndarray, "_ _"]:
    """Undo an augmentation."""
    return np.argsort(colors).astype(np.uint8)[turn(grid, INVERSE[symmetry])]


def to_tokens(
    grid: UInt8[np.ndarray, "rows columns"], side: int = SIDE
) -> UInt8[np.ndarray, " cells"]:
    """Return a grid in the upper left corner of a canvas, with its border."""
    canvas = np.zeros((side + 1, side + 1), np.uint8)
    draw(canvas, grid)
    return canvas[:side, :side].reshape(-1)


def draw(
    canvas: UInt8[np.ndarray, "side side"],
    grid: UInt8[np.ndarray, "rows columns"],
) -> None:
    """Draw a grid with its border into the upper left corner of an empty canvas."""
    rows, columns = grid.shape
    canvas[:rows, :columns] = grid + FIRST
    canvas[rows, :columns] = BORDER
    canvas[:rows, columns] = BORDER


def as_canvas(
    tokens: Shaped[np.ndarray, "*examples cells"],
) -> Shaped[np.ndarray, "*examples side side"]:
    """Return tokens as square canvases."""
    side = math.isqrt(tokens.shape[-1])
    return tokens.reshape(*tokens.shape[:-1], side, side)


def crop_sizes(
    tokens: Integer[np.ndarray, "examples cells"],
) -> Integer[np.ndarray, "examples 2"]:
    """Return the sizes of the largest rectangles of colors in the upper left corners.

    Ties are decided by the fewest rows. (0, 0): the corner is not a color.
    """
    canvas = as_canvas(tokens)
    colored = (canvas >= FIRST) & (canvas < VOCAB)
    width = np.logical_and.accumulate(colored, axis=2).sum(axis=2)
    width = np.minimum.accumulate(width, axis=1)
    area = width * np.arange(1, canvas.shape[1] + 1)
    last = area.argmax(axis=1)
    columns = np.take_along_axis(width, last[:, None], axis=1)[:, 0]
    return np.stack([np.where(columns > 0, last + 1, 0), columns], axis=1)


def crop(tokens: Integer[np.ndarray, "examples cells"]) -> list[np.ndarray]:
    """Return the grid of each example: the largest rectangle of colors."""
    canvas = (as_canvas(tokens) - FIRST).astype(np.uint8)
    sizes = crop_sizes(tokens).tolist()
    return [grid[:r, :c] for grid, (r, c) in zip(canvas, sizes, strict=True)]


def to_grid(tokens: Integer[np.ndarray, " cells"]) -> UInt8[np.ndarray, "rows columns"]:
    """Return the grid in the upper left corner of a canvas."""
    return crop(tokens[None])[0]
