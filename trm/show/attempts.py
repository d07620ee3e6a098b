"""The attempts at ARC tasks: a picture of each task (PNG), and a page with all (HTML).

A task has its demonstrations, then each test input with its solution, if known, and the
first answers with their votes. Cells unlike the solution have a frame, and all cells a
digit, so that no color has to be told from another.
"""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
from jaxtyping import Bool

from data.puzzles.arc.grid import FIRST, SIDE, VOCAB
from data.puzzles.arc.kind import SIGNS
from data.puzzles.arc.voting import Ballot, Grid, Votes
from data.puzzles.kinds import kind_of
from data.storage import AnyPath, open_path, require_writable, whole_file, write_whole
from trm.show.frames import Frame
from trm.show.pictures import (
    INK,
    LINE,
    MARGIN,
    PAPER,
    SMALL,
    WIDEST,
    draw_board,
    font,
    in_few_colors,
    require_pillow,
)

if TYPE_CHECKING:
    from PIL.Image import Image

KIND = replace(kind_of("arc", SIDE**2, VOCAB), letters=tuple(SIGNS))
SMALLEST_CELL, LARGEST_CELL = 14, 28
"""Pixels."""

WIDEST_BOARD = 300
"""Pixels of the largest grid of a task, unless its cells would be too small."""


def write_attempts(votes: Votes, folder: str | AnyPath) -> AnyPath:
    """Write `TASK.png` for each test task, and `index.html` with all of them.

    Returns:
        The path of the page, which needs no other file and no JavaScript.

    Raises:
        UserError: if Pillow is missing, or a file cannot be written.
    """
    require_pillow()
    folder = open_path(folder)
    page = folder / "index.html"
    require_writable(page)
    tasks, sections = {}, []
    for name, task in votes.tasks.items():
        ballots = votes.ballots(name)
        picture = _png(draw_task(task["train"], ballots))
        with whole_file(folder / f"{quote(name, safe=' ')}.png") as file:
            file.write(picture)
        tasks[name] = ballots
        sections.append(_section(name, ballots, picture))
    write_whole(page, PAGE.replace("$BODY", "\n".join([_head(tasks), *sections])))
    return page


# -- pictures --------------------------------------------------------------------------


def draw_task(
    demonstrations: Sequence[dict[str, Grid]], ballots: Sequence[Ballot]
) -> "Image":
    """Return a task with the first answers to its test inputs in one picture.

    Args:
        demonstrations: pairs of grids, `input` and `output`.
        ballots: one for each test input.
    """
    grids = [pair[side] for pair in demonstrations for side in ("input", "output")]
    for ballot in ballots:
        grids += [ballot.input, *(grid for grid, _ in ballot.answers)]
        grids += [] if ballot.solution is None else [ballot.solution]
    side = max(max(len(grid), *map(len, grid)) for grid in grids if grid)
    cell = min(max(WIDEST_BOARD // side, SMALLEST_CELL), LARGEST_CELL)
    pairs = [
        _beside(
            [
                _board(pair["input"], cell, f"demonstration {number}"),
                _board(pair["output"], cell, "output"),
            ]
        )
        for number, pair in enumerate(demonstrations, 1)
    ]
    shelves = [_beside(shelf, 3 * MARGIN) for shelf in _shelves(pairs)]
    shelves += [_test(ballot, cell, i) for i, ballot in enumerate(ballots, 1)]
    return _stack(shelves)


def _test(ballot: Ballot, cell: int, number: int) -> "Image":
    """Draw a test input, its solution and the answers to it."""
    boards = [_board(ballot.input, cell, f"test input {number}")]
    if ballot.solution is not None:
        boards.append(_board(ballot.solution, cell, "solution"))
    for attempt, (grid, count) in enumerate(ballot.answers, 1):
        verdict = _verdict(grid, ballot.solution)
        note = f"{count} of {ballot.votes} votes{verdict}"
        wrong = _wrong(grid, ballot.solution)
        boards.append(_board(grid, cell, f"attempt {attempt}", note, wrong))
    return _beside(boards)


def _verdict(grid: Grid, solution: Grid | None) -> str:
    """Return `: right` or `: wrong`; empty if the solution is secret."""
    if solution is None:
        return ""
    if grid == solution:
        return ": right"
    return ": wrong" + (f", {_size(grid)}" if _size(grid) != _size(solution) else "")


def _size(grid: Grid) -> str:
    """Return rows and columns in words."""
    return f"{len(grid)}x{len(grid[0])}" if grid else "no grid"


def _wrong(grid: Grid, solution: Grid | None) -> Bool[np.ndarray, " cells"]:
    """Return the cells unlike the solution; none if that has another size."""
    if solution is None or _size(solution) != _size(grid):
        return np.zeros(np.size(grid), bool)
    return np.not_equal(grid, solution).ravel()


def _board(
    grid: Grid,
    cell: int,
    title: str,
    note: str = "",
    wrong: Bool[np.ndarray, " cells"] | None = None,
) -> "Image":
    """Draw a grid under a title and a note; without a note, under its size."""
    from PIL import Image, ImageDraw

    rows, columns = len(grid), len(grid[0]) if grid else 0
    tokens = np.array(grid, int).ravel() + FIRST
    nothing = np.zeros(tokens.size, bool)
    marked = nothing if wrong is None else wrong
    frame = Frame(0, tokens, nothing, nothing, marked, nothing, "", None)
    note = note or _size(grid)
    words = max(font(18).getlength(title), font(SMALL).getlength(note))
    width = max(columns * cell, round(words)) + 4
    top = 2 * LINE
    picture = Image.new("RGB", (width, top + rows * cell + 4), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((0, 0), title, INK, font(18))
    draw.text((0, LINE), note, INK, font(SMALL))
    if grid:
        draw_board(draw, replace(KIND, columns=columns), frame, 1, top, cell)
    return picture


def _shelves(pictures: Sequence["Image"]) -> list[list["Image"]]:
    """Distribute pictures to rows that are not too wide."""
    shelves: list[list[Image]] = []
    width = 0
    for picture in pictures:
        width += picture.width + 3 * MARGIN
        if not shelves or width > WIDEST:
            shelves.append([])
            width = picture.width
        shelves[-1].append(picture)
    return shelves


def _beside(pictures: Sequence["Image"], gap: int = MARGIN) -> "Image":
    """Return pictures in a row."""
    from PIL import Image

    width = sum(picture.width + gap for picture in pictures) - gap
    row = Image.new("RGB", (width, max(p.height for p in pictures)), PAPER)
    x = 0
    for picture in pictures:
        row.paste(picture, (x, 0))
        x += picture.width + gap
    return row


def _stack(pictures: Sequence["Image"]) -> "Image":
    """Return pictures below each other, with a margin."""
    from PIL import Image

    width = max(picture.width for picture in pictures) + 2 * MARGIN
    height = sum(picture.height + MARGIN for picture in pictures) + MARGIN
    column = Image.new("RGB", (width, height), PAPER)
    y = MARGIN
    for picture in pictures:
        column.paste(picture, (MARGIN, y))
        y += picture.height + MARGIN
    return column


def _png(picture: "Image") -> bytes:
    """Return a picture as a PNG file."""
    file = io.BytesIO()
    in_few_colors([picture])[0].save(file, "PNG")
    return file.getvalue()


# -- the page --------------------------------------------------------------------------


def _result(ballots: Sequence[Ballot]) -> str:
    """Return how many test inputs of a task are solved, in words."""
    known = [ballot.solved for ballot in ballots if ballot.solved is not None]
    if not known:
        return "solution not known"
    return f"{sum(known)} of {len(known)} solved"


def _head(tasks: dict[str, list[Ballot]]) -> str:
    """Return the summary and the list of tasks."""
    everything = [ballot for ballots in tasks.values() for ballot in ballots]
    entries = (
        f'<li><a href="#{quote(name)}">{html.escape(name)}</a>: {_result(ballots)}</li>'
        for name, ballots in tasks.items()
    )
    return (
        f"<p>Test inputs of {len(tasks)} tasks: {_result(everything)} by one of the "
        f"attempts.</p>\n<ul>\n{chr(10).join(entries)}\n</ul>"
    )


def _section(name: str, ballots: Sequence[Ballot], picture: bytes) -> str:
    """Return a task of the page."""
    title = f"{name}: {_result(ballots)}"
    data = base64.b64encode(picture).decode()
    return (
        f'<section id="{quote(name)}"><h2>{html.escape(title)}</h2>\n'
        f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}"></section>'
    )


PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Attempts at ARC tasks</title>
<style>
body { font: 16px/1.4 system-ui, sans-serif; color: #000; background: #fff;
  margin: 1rem; }
ul { columns: 16rem; padding-left: 1rem; }
h2 { font-size: 1.1rem; border-top: 1px solid #b5b5b5; padding-top: 1rem; }
img { max-width: 100%; }
</style>
<h1>Attempts at ARC tasks</h1>
$BODY
</html>
"""
