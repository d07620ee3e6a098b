"""Mazes as a kind of puzzle.

A maze in a dataset is the tokens of its cells, row by row: 1 wall, 2 free, 3 start,
4 goal, and in answers 5 for the cells of a shortest path between them (0 is padding).
"""

import math
from itertools import groupby

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8

from configs import UserError, require
from data.puzzles.kind import Boards, Cells, Kind, render_cells
from data.puzzles.maze.flood import LARGEST, distances
from data.puzzles.questions import Question
from data.puzzles.symmetry import of_square

SIGNS = "# SGo"
WALL, FREE, START, GOAL, PATH = range(1, 6)
VOCAB = len(SIGNS) + 1
COLORS = ("#ffffff", "#404040", "#ffffff", "#009e73", "#e69f00", "#56b4e9")
"""Color of each token, from Okabe and Ito's palette."""

Mazes = UInt8[np.ndarray, "mazes seq"]


def maze(seq: int, vocab: int) -> Kind | None:
    """Return the kind of mazes with `seq` cells; None if no maze has these sizes."""
    side = math.isqrt(seq)
    if side > LARGEST or (seq, vocab) != (side**2, VOCAB):
        return None
    return Kind(
        columns=side,
        signs=("?", *SIGNS),
        letters=("?", "", "", "S", "G", ""),
        fills=COLORS,
        key=(("#404040", "wall"), ("#56b4e9", "path")),
        read=lambda text, name="": read(text, seq, name),
        render=render,
        given=lambda inputs: inputs != FREE,
        faults=faults,
        symmetries=lambda rng: of_square(side, vocab, rng),
        remark=_remark,
    )


def faults(inputs: Boards, answers: Boards) -> Cells:
    """Return the cells that break a rule; none where a shortest path is marked.

    Faults are cells that differ from the maze, and cells of the path without exactly
    two neighbors (its ends: one). A path without these that is still not a shortest
    one is marked as a whole.
    """
    marked = answers == PATH
    other = np.where(marked, inputs != FREE, answers != inputs)
    ends = (inputs == START) | (inputs == GOAL)
    side = math.isqrt(inputs.shape[1])
    grid = np.pad((marked | ends).reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)))
    inner = slice(1, -1)
    around = [grid[:, :-2, inner], grid[:, 2:, inner]]
    around += [grid[:, inner, :-2], grid[:, inner, 2:]]
    beside = np.sum(around, axis=0).reshape(inputs.shape)
    wrong = other | (marked & (beside != 2)) | (ends & (beside != 1))
    unseen = ~wrong.any(axis=1) & ~is_solution(inputs, answers)
    return wrong | (unseen[:, None] & (marked | ends))


def _remark(inputs: Integer[np.ndarray, " seq"]) -> str:
    """Return a remark on a maze without a path."""
    side = math.isqrt(len(inputs))
    cells = inputs.reshape(1, side, side)
    steps = distances(cells == START, cells > WALL)
    way = (steps[cells == GOAL] > 0).any()
    return "" if way else "no answer is right: no way leads from S to G"


def is_solution(
    inputs: Integer[np.ndarray, "mazes seq"], answers: Integer[np.ndarray, "mazes seq"]
) -> Bool[np.ndarray, " mazes"]:
    """Check that answers mark any one shortest path and change nothing else.

    False for a maze without one start, one goal and a way between them.
    """
    side = math.isqrt(inputs.shape[1])
    require(
        side**2 == inputs.shape[1],
        f"A maze must be a square: got {inputs.shape[1]} cells. Check the tokens.",
    )
    marked = answers == PATH
    unchanged = np.where(marked, inputs == FREE, answers == inputs).all(axis=1)
    one_start, one_goal = ((inputs == end).sum(axis=1) == 1 for end in (START, GOAL))
    ends = (inputs == START) | (inputs == GOAL)
    to_grid = lambda cells: cells.reshape(-1, side, side)
    start, goal = to_grid(inputs == START), inputs == GOAL

    def length(passable: Bool[np.ndarray, "mazes seq"]) -> Int[np.ndarray, " mazes"]:
        steps = distances(start, to_grid(passable)).reshape(goal.shape)
        return np.where(goal, steps, -1).max(axis=1, initial=-1)

    shortest, taken = length(inputs > WALL), length(marked | ends)
    right = (taken > 0) & (taken == shortest) & (marked.sum(axis=1) == shortest - 1)
    return unchanged & one_start & one_goal & right


def render(
    tokens: Integer[np.ndarray, " seq"], wrong: Bool[np.ndarray, " seq"]
) -> list[str]:
    """Return the lines of a maze, with `!` after each wrong cell; `.` is free."""
    signs = "?" + SIGNS.replace(" ", ".")
    cells = [signs[t] if 0 < t < VOCAB else "?" for t in tokens.tolist()]
    return render_cells(cells, wrong)


def read(text: str, seq: int, name: str = "") -> list[Question]:
    """Read a maze from each line, or from each block of lines between empty lines.

    Raises:
        UserError: if a maze has another form (see `parse`) or another size.
    """
    lines = [line for line in text.splitlines() if line]
    one_a_line = bool(lines) and all(len(line) == seq for line in lines)
    blocks = lines if one_a_line else _blocks(text)
    questions = []
    for number, block in enumerate(blocks, start=1):
        what = f"{name or 'maze'} {number}" if len(blocks) > 1 else name or "maze"
        try:
            tokens = parse(block).astype(np.int32)
        except UserError as error:
            raise UserError(f"{what}: {error}") from None
        side = math.isqrt(seq)
        require(
            len(tokens) == seq,
            f"{what}: A maze of this model must be {side} by {side} cells: got "
            f"{len(tokens)} cells. Use a model of another size.",
        )
        questions.append(Question(what, tokens))
    return questions


def _blocks(text: str) -> list[str]:
    """Return the parts of a text between empty lines."""
    groups = groupby(text.splitlines(), key=bool)
    return ["\n".join(lines) for filled, lines in groups if filled]


def parse(text: str) -> UInt8[np.ndarray, " seq"]:
    """Return the tokens of a maze.

    Args:
        text: `#` for a wall, a space or `.` for a free cell, `S` and `G`; a line for
            each row (spaces at its end may be missing), or all rows in one line.

    Raises:
        UserError: if it is not a square of these with one start and one goal.
    """
    lines = text.strip("\n").split("\n")
    side = math.isqrt(len(lines[0])) if len(lines) == 1 else len(lines)
    cells = "".join(line.rstrip("\r").ljust(side) for line in lines).replace(".", " ")
    require(
        2 <= side <= LARGEST and len(cells) == side**2,
        f"A maze must be a square of 2 to {LARGEST} rows: got {len(lines)} lines, "
        f"the longest of {max(map(len, lines))} signs. Write each row in a line, or "
        "all of them in one.",
    )
    unknown = sorted(set(cells) - set("# SG"))
    require(
        not unknown,
        "A maze must be written in `#`, `.` or space, `S` and `G`: got "
        f"{', '.join(map(repr, unknown))}. Replace them.",
    )
    for sign, name in (("S", "start"), ("G", "goal")):
        require(
            cells.count(sign) == 1,
            f"A maze must have one {name}, `{sign}`: got {cells.count(sign)}. "
            "Mark one cell.",
        )
    return to_tokens([cells])[0]


def to_tokens(mazes: list[str]) -> Mazes:
    """Return mazes of one length as tokens; 0 for an unknown sign."""
    codes = np.zeros(256, np.uint8)
    codes[np.frombuffer(SIGNS.encode(), np.uint8)] = range(1, VOCAB)
    text = "".join(mazes).encode("latin-1", errors="replace")
    return codes[np.frombuffer(text, np.uint8)].reshape(len(mazes), -1)
