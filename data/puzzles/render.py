"""Puzzles as text: each kind as its own file draws it, any other as numbers.

A kind of puzzle is drawn by a function from the tokens of one example, and for each
whether it is wrong, to lines of text.
"""

import math
from collections.abc import Callable, Mapping
from itertools import zip_longest

import numpy as np
from jaxtyping import Bool, Integer

from data.puzzles.arc import grid as arc_grid
from data.puzzles.maze import kind as maze
from data.puzzles.sudoku import extreme as sudoku

Render = Callable[[Integer[np.ndarray, " seq"], Bool[np.ndarray, " seq"]], list[str]]
Check = Callable[
    [Integer[np.ndarray, "puzzles seq"], Integer[np.ndarray, "puzzles seq"]],
    Bool[np.ndarray, " puzzles"],
]

GAP = "    "


def numbers(
    tokens: Integer[np.ndarray, " seq"], wrong: Bool[np.ndarray, " seq"]
) -> list[str]:
    """Lines of bare numbers, in a square if they make one; `!` after a wrong one."""
    size = math.isqrt(len(tokens))
    if size * size != len(tokens):
        size = len(tokens)
    width = max((len(str(token)) for token in tokens), default=1)
    cells = [
        f"{token:>{width}}{'!' if bad else ' '}"
        for token, bad in zip(tokens.tolist(), wrong, strict=True)
    ]
    rows = (cells[i : i + size] for i in range(0, len(cells), size))
    return ["".join(row).rstrip() for row in rows]


KINDS: Mapping[str, Render] = {
    "sudoku": sudoku.render,
    "maze": maze.render,
    "arc": arc_grid.render,
    "numbers": numbers,
}
"""How the kinds that `dataset.json` may name are drawn."""

CHECKS: Mapping[str, Check] = {
    "sudoku": sudoku.is_solution,
    "maze": maze.is_solution,
}
"""Whether answers solve puzzles by the rules, for the kinds that have any."""


def guess_kind(seq_len: int, vocab_size: int | None = None) -> str:
    """The kind of a dataset that records none, as those of the official builders.

    Args:
        seq_len: tokens of an example.
        vocab_size: of the dataset, if it is known.
    """
    fits = (box for box in sudoku.BOXES.values() if box.size**2 == seq_len)
    if any(vocab_size in (None, box.size + 2) for box in fits):
        return "sudoku"
    if vocab_size == maze.VOCAB and math.isqrt(seq_len) ** 2 == seq_len:
        return "maze"
    if (seq_len, vocab_size) == (arc_grid.SIDE**2, arc_grid.VOCAB):
        return "arc"
    return "numbers"


def render_solution(
    inputs: Integer[np.ndarray, " seq"],
    prediction: Integer[np.ndarray, " seq"],
    labels: Integer[np.ndarray, " seq"],
    kind: str | None = None,
) -> str:
    """Puzzle and prediction side by side, with `!` after each wrong cell.

    Args:
        inputs: tokens of the puzzle.
        prediction: tokens that a model gives.
        labels: tokens of the solution; negative where no token is asked for.
        kind: of puzzle; None guesses. One that is not known is drawn as numbers.
    """
    render = KINDS.get(kind or guess_kind(len(inputs)), numbers)
    wrong = (labels >= 0) & (prediction != labels)
    left = ["puzzle", *render(inputs, np.zeros_like(wrong))]
    right = [f"prediction ({wrong.sum()} wrong)", *render(prediction, wrong)]
    width = max(map(len, left))
    pairs = zip_longest(left, right, fillvalue="")
    return "\n".join(f"{a:<{width}}{GAP}{b}".rstrip() for a, b in pairs)
