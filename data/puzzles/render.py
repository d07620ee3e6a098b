"""Boards as text, from the tokens of a dataset (1 is an empty cell, d + 1 digit d)."""

import math
from itertools import zip_longest

import numpy as np
from jaxtyping import Integer

from data.puzzles.board import BOXES, Box

GAP = "    "


def render(tokens: Integer[np.ndarray, " seq"], size: int | None = None) -> str:
    """Return a board, one row a line, with lines between the boxes of a Sudoku.

    Args:
        tokens: of one example. If they are no Sudoku of size 4, 6 or 9, they come as
            bare numbers, in a square if their count allows it.
        size: cells of a row; None takes the square root of the number of tokens.
    """
    return "\n".join(_lines(tokens, np.zeros(len(tokens), bool), size))


def render_solution(
    inputs: Integer[np.ndarray, " seq"],
    prediction: Integer[np.ndarray, " seq"],
    labels: Integer[np.ndarray, " seq"],
) -> str:
    """Return puzzle and prediction side by side, with `!` after each wrong cell.

    Args:
        inputs: tokens of the puzzle.
        prediction: tokens that a model gives.
        labels: tokens of the solution; negative where no token is asked for.
    """
    wrong = (labels >= 0) & (prediction != labels)
    left = ["puzzle", *_lines(inputs, np.zeros_like(wrong), None)]
    right = [f"prediction ({wrong.sum()} wrong)", *_lines(prediction, wrong, None)]
    width = max(map(len, left))
    pairs = zip_longest(left, right, fillvalue="")
    return "\n".join(f"{a:<{width}}{GAP}{b}".rstrip() for a, b in pairs)


def _lines(tokens: np.ndarray, wrong: np.ndarray, size: int | None) -> list[str]:
    """Return the lines of a board."""
    size = size or math.isqrt(len(tokens))
    if size * size != len(tokens):
        size = len(tokens)
    box = BOXES.get(size) if size * size == len(tokens) else None
    texts = [_cell(int(token), box) for token in tokens]
    width = max(map(len, texts), default=1)
    cells = [
        f"{text:>{width}}{'!' if bad else ' '}"
        for text, bad in zip(texts, wrong, strict=True)
    ]
    rows = [cells[i : i + size] for i in range(0, len(cells), size)]
    if box is None:
        return ["".join(row).rstrip() for row in rows]
    return _boxed(rows, box)


def _cell(token: int, box: Box | None) -> str:
    """Return the text of a cell."""
    if box is None:
        return str(token)
    if 1 <= token <= box.size + 1:
        return "." if token == 1 else str(token - 1)
    return "?"


def _boxed(rows: list[list[str]], box: Box) -> list[str]:
    """Return rows of cells with lines between boxes."""
    stacks = range(0, box.size, box.columns)
    lines = [
        "| ".join("".join(row[start : start + box.columns]) for start in stacks)
        for row in rows
    ]
    rule = "+-".join("-" * 2 * box.columns for _ in stacks)
    for row in range(box.size - box.rows, 0, -box.rows):
        lines.insert(row, rule)
    return [line.rstrip() for line in lines]
