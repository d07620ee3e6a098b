"""ARC tasks as a kind of puzzle: grids without rules that can be checked."""

import json
import math
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer

from configs import UserError, require
from data.puzzles.arc.grid import (
    BORDER,
    PAD,
    SIDE,
    VOCAB,
    as_canvas,
    crop,
    to_grid,
    to_tokens,
)
from data.puzzles.arc.tasks import as_grid
from data.puzzles.kind import Boards, Cells, Kind, render_cells
from data.puzzles.questions import Question

SIGNS = " :0123456789"
COLORS = (
    *("#ffffff", "#e4e4e4"),  # nothing, and the border of a grid
    *("#000000", "#0074d9", "#ff4136", "#2ecc40", "#ffdc00"),
    *("#aaaaaa", "#f012be", "#ff851b", "#7fdbff", "#870c25"),
)
"""Color of each token, as on ARC's own site."""


def arc(seq: int, vocab: int) -> Kind | None:
    """Return the kind of ARC's canvases; None for other sizes."""
    side = math.isqrt(seq)
    if side > SIDE or (seq, vocab) != (side**2, VOCAB):
        return None
    return Kind(
        columns=side,
        signs=tuple(SIGNS),
        fills=COLORS,
        key=((COLORS[BORDER], "end of the grid"),),
        blank=PAD,
        hints=False,
        read=partial(read, side=side),
        render=render,
        errors=errors,
    )


def errors(answers: Boards, known: Integer[np.ndarray, " seq"]) -> Cells:
    """Return the cells unlike the known answer; none where the cropped grid is right.

    Cells outside of a right grid do not count: see `crop`.
    """
    wanted = to_grid(known)
    right = [np.array_equal(grid, wanted) for grid in crop(answers)]
    return (answers != known) & ~np.array(right)[:, None]


def render(
    tokens: Integer[np.ndarray, " cells"], wrong: Bool[np.ndarray, " cells"]
) -> list[str]:
    """Return the lines of the used part of a canvas, with `!` after each wrong cell.

    Colors are digits, and the border is `:`.
    """
    used = as_canvas((tokens != PAD) | wrong)
    rows, columns = (
        int(np.flatnonzero(used.any(axis=axis)).max(initial=0)) + 1 for axis in (1, 0)
    )
    cells = [SIGNS[t] if 0 <= t < VOCAB else "?" for t in tokens.tolist()]
    lines = render_cells(cells, wrong)[:rows]
    return [line[: 2 * columns].rstrip() for line in lines]


def read(text: str, name: str = "", side: int = SIDE) -> list[Question]:
    """Read the test inputs of an ARC task in JSON, or of a JSON object of tasks.

    Args:
        text: JSON.
        name: of the task, or of the file.
        side: rows and columns of the canvas.

    Raises:
        UserError: if the text is not JSON of this form, or a grid is larger.
    """
    what = name or "the task"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"An ARC task must be JSON: {what} is not ({error}). Name the file of one."
        ) from None
    require(
        isinstance(content, dict),
        f"An ARC task must be a JSON object with `train` and `test`: {what} is "
        f"{content!r:.40}. Name the file of one.",
    )
    tasks = {name: content} if "test" in content else content
    return [
        question
        for task, parts in tasks.items()
        for question in _test_inputs(task, parts, what, side)
    ]


def _test_inputs(task: str, parts: Any, what: str, side: int) -> list[Question]:
    """Return the questions of a task."""
    pairs = parts.get("test") if isinstance(parts, dict) else None
    if not isinstance(pairs, list) or not all(isinstance(p, dict) for p in pairs):
        raise UserError(
            f"An ARC task must have a list `test` of objects: {task or what} has none. "
            "Correct the file or download it again."
        )
    questions = []
    for number, pair in enumerate(pairs):
        where = f"{task or what}, test[{number}]"
        require(
            "input" in pair,
            f"{where}: a pair must have an input: got {sorted(pair)}. Correct the file "
            "or download it again.",
        )
        grid = lambda part, pair=pair, where=where: to_tokens(
            as_grid(pair[part], f"{where}, {part}: a grid", side), side
        ).astype(np.int32)
        answer = grid("output") if pair.get("output") is not None else None
        questions.append(Question(where, grid("input"), answer, task or what))
    return questions
