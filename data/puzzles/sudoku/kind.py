"""Sudoku as a kind of puzzle.

A board in a dataset is tokens: 1 is an empty cell, d + 1 digit d (0 is padding).
"""

import math

import numpy as np
from jaxtyping import Bool, Integer

from configs import UserError
from data.puzzles.kind import Kind
from data.puzzles.questions import Question
from data.puzzles.sudoku.board import BOXES, Box
from data.puzzles.sudoku.solver import solutions_known
from data.puzzles.sudoku.symmetries import random_symmetries


def sudoku(seq: int, vocab: int) -> Kind | None:
    """Return the kind of boards with `seq` cells; None if no board has these sizes."""
    box = BOXES.get(math.isqrt(seq))
    if box is None or (seq, vocab) != (box.size**2, box.size + 2):
        return None
    digits = tuple(map(str, range(1, box.size + 1)))
    return Kind(
        columns=box.size,
        signs=("?", ".", *digits),
        letters=("?", "", *digits),
        read=lambda text, name="": read(text, box),
        render=render,
        box=box,
        given=lambda inputs: inputs != 1,
        faults=faults,
        symmetries=lambda rng: random_symmetries(rng, box),
        remark=lambda inputs: _remark(inputs, box),
    )


def faults(
    inputs: Integer[np.ndarray, "boards seq"],
    answers: Integer[np.ndarray, "boards seq"],
) -> Bool[np.ndarray, "boards seq"]:
    """Return cells without a digit, with a changed given or with a repeated digit."""
    box = BOXES[math.isqrt(inputs.shape[1])]
    row, column = np.divmod(np.arange(box.size**2), box.size)
    units = np.stack([row, column, box.of_cell])
    sees = (units[:, :, None] == units[:, None, :]).any(axis=0)
    np.fill_diagonal(sees, False)
    is_digit = (answers > 1) & (answers <= box.size + 1)
    changed = (inputs != 1) & (inputs != answers)
    twice = (answers[:, :, None] == answers[:, None, :]) & sees
    return ~is_digit | changed | twice.any(axis=2)


def render(
    tokens: Integer[np.ndarray, " seq"], wrong: Bool[np.ndarray, " seq"]
) -> list[str]:
    """Return the lines of a board, with `!` after each wrong cell."""
    box = BOXES[math.isqrt(len(tokens))]
    signs = ["?", ".", *map(str, range(1, box.size + 1))]
    cells = [
        f"{signs[token] if 0 <= token < len(signs) else '?'}{'!' if bad else ' '}"
        for token, bad in zip(tokens.tolist(), wrong, strict=True)
    ]
    lines = []
    for row in range(box.size):
        if row and row % box.rows == 0:
            lines.append("+-".join("-" * 2 * box.columns for _ in range(box.rows)))
        starts = range(row * box.size, (row + 1) * box.size, box.columns)
        stacks = ("".join(cells[i : i + box.columns]) for i in starts)
        lines.append("| ".join(stacks).rstrip())
    return lines


def read(text: str, box: Box) -> list[Question]:
    """Read a puzzle from each line: a character a cell, `.` or `0` if it is empty.

    Raises:
        UserError: if a line has another length or another character.
    """
    cells, questions = box.size**2, []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line:
            continue
        if len(line) != cells:
            raise UserError(
                f"A Sudoku of this model must have {cells} characters: line {number} "
                f"has {len(line)}. Give {box.size} rows of {box.size} cells in a line, "
                "`.` or `0` for an empty one."
            )
        allowed = ".0123456789"[: box.size + 2]
        for cell, sign in enumerate(line):
            if sign not in allowed:
                row, column = divmod(cell, box.size)
                raise UserError(
                    f"A cell of this model's Sudoku must be a digit from 1 to "
                    f"{box.size}, or `.` or `0` if it is empty: line {number} has "
                    f"{sign!r} in row {row + 1}, column {column + 1}. Correct it, or "
                    "use a model of another size."
                )
        tokens = np.array([1 if sign == "." else int(sign) + 1 for sign in line])
        questions.append(Question(line, tokens.astype(np.int32)))
    return questions


def _remark(inputs: Integer[np.ndarray, " seq"], box: Box) -> str:
    """Return a remark on a puzzle with no solution, or with more than one."""
    clash = faults(inputs[None], inputs[None])[0] & (inputs != 1)
    if clash.any():
        return "no answer is right: its givens contradict each other"
    match solutions_known((inputs - 1).tolist(), box):
        case 0:
            return "no answer is right: it has no solution"
        case 2:
            return "it has more than one solution"
    return ""
