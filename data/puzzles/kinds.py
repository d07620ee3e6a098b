"""What a person types and sees of each kind of puzzle, as data for any medium.

A `Kind` reads questions from text, says which cells are given and which break a rule,
and how a cell of each token looks. It serves the terminal, pictures and pages alike;
they know no kind. A kind without an entry here is shown as numbers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Integer

from data.puzzles.arc import grid as arc_grid
from data.puzzles.asking import (
    Question,
    read_arc,
    read_mazes,
    read_numbers,
    read_sudoku,
)
from data.puzzles.maze import kind as maze
from data.puzzles.maze.flood import distances
from data.puzzles.render import CHECKS, KINDS, Check, Render, numbers
from data.puzzles.sudoku import extreme as sudoku
from data.puzzles.sudoku.board import BOXES, Box
from data.puzzles.sudoku.solver import solutions_known

Boards = Integer[np.ndarray, "boards seq"]
Cells = Bool[np.ndarray, "boards seq"]

MAZE_COLOURS = ("#ffffff", "#404040", "#ffffff", "#009e73", "#e69f00", "#56b4e9")
"""Of a maze's tokens, from Okabe and Ito's palette."""

ARC_COLOURS = (
    *("#ffffff", "#e4e4e4"),  # nothing, and the border where a grid ends
    *("#000000", "#0074d9", "#ff4136", "#2ecc40", "#ffdc00"),
    *("#aaaaaa", "#f012be", "#ff851b", "#7fdbff", "#870c25"),
)
"""Of ARC's tokens: the ten that its own site gives the colours."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of puzzle, as a person meets it."""

    columns: int
    """Cells in a line; the lines follow each other."""

    signs: tuple[str, ...]
    """A character, or a number, for each token."""

    read: Callable[..., list[Question]]
    """`text, name="" ->` the questions in it; raises `UserError` if one is none."""

    render: Render
    """Lines of text from tokens, and for each whether it is wrong."""

    letters: tuple[str, ...] = ()
    """What a cell of each token shows in a picture; () for nothing."""

    fills: tuple[str, ...] = ()
    """Colour of a cell of each token; () for plain cells."""

    key: tuple[tuple[str, str], ...] = ()
    """Colours to explain, each with what it means."""

    box: tuple[int, int] = (0, 0)
    """Rows and columns between two thick lines; 0 for none."""

    blank: int | None = None
    """Token of the cells beyond a smaller board, which pictures leave out."""

    given: Callable[[Boards], Cells] = lambda inputs: np.zeros_like(inputs, bool)
    """The cells that an answer must keep."""

    faults: Callable[[Boards, Boards], Cells] | None = None
    """`inputs, answers ->` the cells that break a rule, kept givens included; none in a
    solution. None: the kind has no rules that can be checked."""

    errors: Callable[[Boards, Integer[np.ndarray, " seq"]], Cells] = np.not_equal
    """`answers, known answer ->` the wrong cells, of a kind without rules."""

    remark: Callable[[Integer[np.ndarray, " seq"]], str] = lambda inputs: ""
    """What the rules say of a question whose answer is wrong; empty if nothing."""

    def show(self, tokens: Integer[np.ndarray, " seq"]) -> str:
        """A board in a line, as the signs give it; `?` for a token without one."""
        known = len(self.signs)
        signs = [self.signs[t] if 0 <= t < known else "?" for t in tokens.tolist()]
        return (" " if max(map(len, self.signs)) > 1 else "").join(signs)


def kind_of(name: str, seq: int, vocab: int) -> Kind:
    """The kind of this name (see `guess_kind`), for puzzles of these sizes."""
    side = math.isqrt(seq)
    match name:
        case "sudoku" if side in BOXES:
            return _sudoku(BOXES[side])
        case "maze":
            return _maze(side)
        case "arc":
            return _ARC
        case _:
            return _numbers(seq, vocab, KINDS.get(name, numbers), CHECKS.get(name))


# -- Sudoku ----------------------------------------------------------------------------


def _sudoku(box: Box) -> Kind:
    """Sudoku of this size."""
    digits = tuple(map(str, range(1, box.size + 1)))
    return Kind(
        columns=box.size,
        signs=("?", ".", *digits),
        letters=("?", "", *digits),
        read=lambda text, name="": read_sudoku(text, box),
        render=sudoku.render,
        box=box,
        given=lambda inputs: inputs != 1,
        faults=sudoku.faults,
        remark=lambda inputs: remark_on_sudoku(inputs, box),
    )


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


# -- mazes -----------------------------------------------------------------------------


def _maze(side: int) -> Kind:
    """Mazes of this many rows and columns."""
    return Kind(
        columns=side,
        signs=("?", *maze.SIGNS),
        letters=("?", "", "", "S", "G", ""),
        fills=MAZE_COLOURS,
        key=(("#404040", "wall"), ("#56b4e9", "path")),
        read=lambda text, name="": read_mazes(text, side**2, name),
        render=maze.render,
        given=lambda inputs: inputs != maze.FREE,
        faults=maze_faults,
        remark=remark_on_maze,
    )


def maze_faults(inputs: Boards, answers: Boards) -> Cells:
    """Cells that break a rule; none where the marked path is a shortest one.

    Those which are not as asked, and of the path those that do not go on to one cell
    before and one behind. Where there are none and the path is no shortest one all the
    same, all of it.
    """
    marked = answers == maze.PATH
    other = np.where(marked, inputs != maze.FREE, answers != inputs)
    ends = (inputs == maze.START) | (inputs == maze.GOAL)
    side = math.isqrt(inputs.shape[1])
    grid = np.pad((marked | ends).reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)))
    inner = slice(1, -1)
    around = [grid[:, :-2, inner], grid[:, 2:, inner]]
    around += [grid[:, inner, :-2], grid[:, inner, 2:]]
    beside = np.sum(around, axis=0).reshape(inputs.shape)
    wrong = other | (marked & (beside != 2)) | (ends & (beside != 1))
    unseen = ~wrong.any(axis=1) & ~maze.is_solution(inputs, answers)
    return wrong | (unseen[:, None] & (marked | ends))


def remark_on_maze(inputs: Integer[np.ndarray, " seq"]) -> str:
    """Whether there is a way at all."""
    side = math.isqrt(len(inputs))
    cells = inputs.reshape(1, side, side)
    steps = distances(cells == maze.START, cells > maze.WALL)
    way = (steps[cells == maze.GOAL] > 0).any()
    return "" if way else "no answer is right: no way leads from S to G"


# -- ARC -------------------------------------------------------------------------------


def arc_errors(answers: Boards, known: Integer[np.ndarray, " seq"]) -> Cells:
    """Cells unlike the known answer; none where the grid is right, as it is cropped.

    What stands beyond the grid does not count then: see `arc_grid.crop`.
    """
    wanted = arc_grid.to_grid(known)
    right = [np.array_equal(grid, wanted) for grid in arc_grid.crop(answers)]
    return (answers != known) & ~np.array(right)[:, None]


_ARC = Kind(
    columns=arc_grid.SIDE,
    signs=tuple(arc_grid.SIGNS),
    fills=ARC_COLOURS,
    key=((ARC_COLOURS[arc_grid.BORDER], "end of the grid"),),
    blank=arc_grid.PAD,
    read=read_arc,
    render=arc_grid.render,
    errors=arc_errors,
)
"""Grids; what their rule is, nobody says."""


# -- any other kind --------------------------------------------------------------------


def _numbers(seq: int, vocab: int, render: Render, check: Check | None) -> Kind:
    """Puzzles of tokens, in a square if they make one."""
    size = math.isqrt(seq)
    signs = tuple(map(str, range(vocab)))

    def faults(inputs: Boards, answers: Boards) -> Cells:
        """Where the rules say no more than yes or no: all cells, or none."""
        assert check is not None
        return np.broadcast_to(~check(inputs, answers)[:, None], inputs.shape)

    return Kind(
        columns=size if size * size == seq else seq,
        signs=signs,
        letters=signs,
        read=lambda text, name="": read_numbers(text, seq, vocab),
        render=render,
        faults=None if check is None else faults,
    )
