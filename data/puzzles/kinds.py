"""What a person types and sees of each kind of puzzle, as data for any medium.

A `Kind` reads questions from text, says which cells are given and which break a rule,
and how a cell of each token looks. It serves the terminal, pictures and pages alike;
they know no kind. A kind without an entry here is shown as numbers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

from configs import UserError
from data.puzzles import sudoku
from data.puzzles.board import BOXES, Box
from data.puzzles.render import KINDS, Render, numbers
from data.puzzles.solver import solutions_known

Boards = Integer[np.ndarray, "boards seq"]
Cells = Bool[np.ndarray, "boards seq"]


class Question(NamedTuple):
    """A puzzle to solve."""

    name: str
    """What to call it."""

    tokens: Integer[np.ndarray, " seq"]
    """As the model reads it."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of puzzle, as a person meets it."""

    columns: int
    """Cells in a line; the lines follow each other."""

    signs: tuple[str, ...]
    """What a cell of each token shows."""

    read: Callable[[str], list[Question]]
    """The questions in a text; raises `UserError` for one that is none."""

    render: Render
    """Lines of text from tokens, and for each whether it is wrong."""

    fills: tuple[str, ...] = ()
    """Colour of a cell of each token; () for plain cells."""

    box: tuple[int, int] = (0, 0)
    """Rows and columns between two thick lines; 0 for none."""

    given: Callable[[Boards], Cells] = lambda inputs: np.zeros_like(inputs, bool)
    """The cells that an answer must keep."""

    faults: Callable[[Boards, Boards], Cells] | None = None
    """`inputs, answers ->` the cells that break a rule, kept givens included; none in a
    solution. None: the kind has no rules that can be checked."""

    remark: Callable[[Integer[np.ndarray, " seq"]], str] = lambda inputs: ""
    """What the rules say of a question whose answer is wrong; empty if nothing."""

    def show(self, tokens: Integer[np.ndarray, " seq"]) -> str:
        """A board in a line, as the signs give it; `?` for a token without one."""
        known = len(self.signs)
        signs = (self.signs[t] if 0 <= t < known else "?" for t in tokens.tolist())
        return "".join(signs)


def kind_of(name: str, seq: int, vocab: int) -> Kind:
    """The kind of this name (see `guess_kind`), for puzzles of these sizes."""
    match name:
        case "sudoku" if math.isqrt(seq) in BOXES:
            return _sudoku(BOXES[math.isqrt(seq)])
        case _:
            return _numbers(seq, vocab, KINDS.get(name, numbers))


# -- Sudoku ----------------------------------------------------------------------------


def _sudoku(box: Box) -> Kind:
    """Sudoku of this size."""
    return Kind(
        columns=box.size,
        signs=("?", ".", *map(str, range(1, box.size + 1))),
        read=lambda text: read_sudoku(text, box),
        render=sudoku.render,
        box=box,
        given=lambda inputs: inputs != 1,
        faults=sudoku.faults,
        remark=lambda inputs: remark_on_sudoku(inputs, box),
    )


def read_sudoku(text: str, box: Box) -> list[Question]:
    """A puzzle a line: a character a cell, `.` or `0` where it is empty.

    Raises:
        UserError: if a line has another length or another character.
    """
    lines = [line.strip() for line in text.splitlines()]
    cells, digits = box.size**2, f"1 to {box.size}"
    questions = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        if len(line) != cells:
            raise UserError(
                f"A Sudoku of this model must have {cells} characters: line {number} "
                f"has {len(line)}. Give {box.size} rows of {box.size} cells in a line, "
                "`.` or `0` for an empty one."
            )
        allowed = ".0123456789"[: box.size + 2]
        for place, sign in enumerate(line):
            if sign not in allowed:
                row, column = divmod(place, box.size)
                raise UserError(
                    f"A cell of this model's Sudoku must be a digit from {digits}, or "
                    f"`.` or `0` if it is empty: line {number} has {sign!r} in row "
                    f"{row + 1}, column {column + 1}. Correct it, or ask a model of "
                    "another size."
                )
        tokens = np.array([1 if sign == "." else int(sign) + 1 for sign in line])
        questions.append(Question(line, tokens.astype(np.int32)))
    return questions


def remark_on_sudoku(inputs: Integer[np.ndarray, " seq"], box: Box) -> str:
    """Whether a puzzle has a solution at all, and one only."""
    clash = sudoku.faults(inputs[None], inputs[None])[0] & (inputs != 1)
    if clash.any():
        return "no answer is right: its givens contradict each other"
    match solutions_known((inputs - 1).tolist(), box):
        case 0:
            return "no answer is right: it has no solution"
        case 2:
            return "it has more than one solution"
    return ""


# -- any other kind --------------------------------------------------------------------


def _numbers(seq: int, vocab: int, render: Render) -> Kind:
    """Puzzles of tokens, in a square if they make one."""
    size = math.isqrt(seq)
    return Kind(
        columns=size if size * size == seq else seq,
        signs=tuple(map(str, range(vocab))),
        read=lambda text: read_numbers(text, seq, vocab),
        render=render,
    )


def read_numbers(text: str, seq: int, vocab: int) -> list[Question]:
    """A puzzle a line: its tokens, with blanks or commas between them.

    Raises:
        UserError: if a line has another length, or what is no token.
    """
    questions = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        if len(words) != seq:
            raise UserError(
                f"A puzzle of this model must have {seq} tokens: line {number} has "
                f"{len(words)}. Give all of them in a line."
            )
        for word in words:
            if not (word.isascii() and word.isdigit() and int(word) < vocab):
                raise UserError(
                    f"A token of this model must be a number below {vocab}: line "
                    f"{number} has {word!r:.40}. Correct it."
                )
        tokens = np.array(list(map(int, words)), np.int32)
        questions.append(Question(f"line {number}", tokens))
    return questions
