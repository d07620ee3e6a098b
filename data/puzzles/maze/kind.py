"""Mazes: from lists in CSV form to a dataset, the rules, and mazes as text.

A maze in a dataset is the tokens of its cells, row by row: 1 wall, 2 free, 3 start,
4 goal, and in answers 5 for the cells of a shortest path between them (0 is padding).

Source: official `dataset/build_maze_dataset.py`.
"""

import math
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8

from configs import MazeHard, UserError, require
from data.folder import check_vacant
from data.puzzles.lists import (
    bad_row,
    draw_subsample,
    find_lists,
    names_of,
    read_rows,
)
from data.puzzles.maze.flood import LARGEST, distances
from data.puzzles.writer import Examples, write_puzzles

SIGNS = "# SGo"
WALL, FREE, START, GOAL, PATH = range(1, 6)
VOCAB = len(SIGNS) + 1
IMAGES = 8

Mazes = UInt8[np.ndarray, "mazes seq"]


def build(config: MazeHard, out: Path) -> None:
    """Build the dataset in `out`; only training mazes get images.

    Raises:
        UserError: if `out` is not vacant, or the CSV files are bad or unavailable.
    """
    check_vacant(out)
    lists = {
        split: [read_csv(path) for path in find_lists(config, split, "maze", out)]
        for split in ("train", "test")
    }
    sizes = {questions.shape[1] for part in lists.values() for questions, _ in part}
    require(
        len(sizes) == 1,
        "Mazes of a dataset must be of one size: got files with mazes of "
        f"{', '.join(map(str, sorted(sizes)))} cells. Build a dataset for each size.",
    )
    train, test = (
        [np.concatenate(mazes) for mazes in zip(*part, strict=True)]
        for part in lists.values()
    )
    chosen = draw_subsample(len(train[0]), config.subsample, config.seed)
    write_mazes(
        Examples(train[0][chosen], train[1][chosen]),
        Examples(test[0], test[1]),
        out,
        dihedral=config.dihedral,
        extra={"seed": config.seed, "source": names_of(config)},
    )


def write_mazes(
    train: Examples,
    test: Examples,
    out: Path,
    *,
    dihedral: bool,
    extra: dict[str, object],
) -> None:
    """Write mazes and answers as a dataset, the training ones with their images."""
    if dihedral:
        train = Examples(images(train.inputs), images(train.labels), IMAGES)
    splits = {"train": train, "test": test}
    write_puzzles(splits, out, kind="maze", vocab_size=VOCAB, extra=extra)


def images(mazes: Mazes) -> UInt8[np.ndarray, "mazes*8 seq"]:
    """The 8 turned and mirrored images of each maze, itself the first, in a row.

    Source: official `dataset/common.py`, `dihedral_transform`, in its order.
    """
    side = math.isqrt(mazes.shape[1])
    grids = mazes.reshape(-1, side, side)
    turned = [np.rot90(grids, turns, axes=(1, 2)) for turns in range(4)]
    mirrored = [grids[:, :, ::-1], grids[:, ::-1], grids.transpose(0, 2, 1)]
    stacked = np.stack([*turned, *mirrored, turned[1][:, :, ::-1]], axis=1)
    return stacked.reshape(-1, side * side)


def is_solution(
    inputs: Integer[np.ndarray, "mazes seq"], answers: Integer[np.ndarray, "mazes seq"]
) -> Bool[np.ndarray, " mazes"]:
    """Whether answers, any tokens, mark a shortest path, whichever and nothing else.

    Never if the puzzle is none: without one start, one goal and a way between them.
    """
    side = math.isqrt(inputs.shape[1])
    require(
        side**2 == inputs.shape[1],
        f"A maze must be a square: got {inputs.shape[1]} cells. Check the tokens.",
    )
    marked = answers == PATH
    kept = np.where(marked, inputs == FREE, answers == inputs).all(axis=1)
    one_start, one_goal = ((inputs == end).sum(axis=1) == 1 for end in (START, GOAL))
    ends = (inputs == START) | (inputs == GOAL)
    to_grid = lambda cells: cells.reshape(-1, side, side)
    start, goal = to_grid(inputs == START), inputs == GOAL

    def length(passable: Bool[np.ndarray, "mazes seq"]) -> Int[np.ndarray, " mazes"]:
        steps = distances(start, to_grid(passable)).reshape(goal.shape)
        return np.where(goal, steps, -1).max(axis=1, initial=-1)

    shortest, taken = length(inputs > WALL), length(marked | ends)
    right = (taken > 0) & (taken == shortest) & (marked.sum(axis=1) == shortest - 1)
    return kept & one_start & one_goal & right


def trace(
    from_goal: Int[np.ndarray, "mazes rows columns"], starts: Int[np.ndarray, " mazes"]
) -> tuple[Bool[np.ndarray, "mazes seq"], Bool[np.ndarray, " mazes"]]:
    """A shortest path of each maze, both ends included, and whether it has just one.

    From the start a path goes down wherever that leads nearer to the goal, else right,
    else left, else up. All answers of Maze-Hard that we have (8 of 2,000) are these.

    Args:
        from_goal: steps from every cell to the goal; -1 where there is no way.
        starts: the number of a cell of each maze, from which there is a way.
    """
    mazes, side, _ = from_goal.shape
    wide = np.pad(from_goal, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    flat = wide.reshape(mazes, (side + 2) ** 2)
    moves = np.array([side + 2, 1, -1, -side - 2])  # down, right, left, up
    row, column = np.divmod(starts, side)
    cells = (row + 1) * (side + 2) + column + 1
    path, single = np.zeros(flat.shape, bool), np.ones(mazes, bool)
    path[np.arange(mazes), cells] = True
    walking = np.arange(mazes)
    while len(walking):
        here = flat[walking, cells]
        ahead = flat[walking[:, None], cells[:, None] + moves] == here[:, None] - 1
        walking, cells, ahead = walking[here > 0], cells[here > 0], ahead[here > 0]
        single[walking] &= ahead.sum(axis=1) == 1
        cells = cells + moves[ahead.argmax(axis=1)]
        path[walking, cells] = True
    inner = path.reshape(wide.shape)[:, 1:-1, 1:-1]
    return inner.reshape(mazes, side**2), single


def render(
    tokens: Integer[np.ndarray, " seq"], wrong: Bool[np.ndarray, " seq"]
) -> list[str]:
    """The lines of a maze, with `!` after each wrong cell and `.` for a free one."""
    side = math.isqrt(len(tokens))
    signs = "?" + SIGNS.replace(" ", ".")
    cells = [
        f"{signs[token] if 0 < token < VOCAB else '?'}{'!' if bad else ' '}"
        for token, bad in zip(tokens.tolist(), wrong, strict=True)
    ]
    rows = (cells[i : i + side] for i in range(0, len(cells), side))
    return ["".join(row).rstrip() for row in rows]


def parse(text: str) -> UInt8[np.ndarray, " seq"]:
    """The tokens of a maze that a user has written.

    Args:
        text: `#` for a wall, a space or `.` for a free cell, `S` and `G`; a line for
            each row (spaces at its end may be missing), or all rows in one line.

    Raises:
        UserError: if it is no square of these with one start and one goal.
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
    """Mazes as tokens, 0 for a sign that is none of theirs; all are of one length."""
    codes = np.zeros(256, np.uint8)
    codes[np.frombuffer(SIGNS.encode(), np.uint8)] = range(1, VOCAB)
    text = "".join(mazes).encode("latin-1", errors="replace")
    return codes[np.frombuffer(text, np.uint8)].reshape(len(mazes), -1)


def read_csv(path: str | Path) -> tuple[Mazes, Mazes]:
    """Questions and answers of a `.csv` or `.csv.gz` file, checked by the rules.

    Raises:
        UserError: if the file is missing or a row is wrong.
    """
    path, rows = Path(path), read_rows(path)
    if not rows.questions:
        raise UserError(f"A split must have a maze: {path} has none. Check the file.")
    cells = len(rows.questions[0])
    if not 2 <= math.isqrt(cells) <= LARGEST or math.isqrt(cells) ** 2 != cells:
        wanted = f"a square of 2 to {LARGEST} rows"
        raise bad_row(path, rows.lines[0], wanted, f"{cells} cells")
    questions, answers = to_tokens(rows.questions), to_tokens(rows.answers)
    faults = {
        "a question of `#`, spaces, `S` and `G`": (questions == 0) | (questions > GOAL),
        "one start": (questions == START).sum(axis=1, keepdims=True) != 1,
        "one goal": (questions == GOAL).sum(axis=1, keepdims=True) != 1,
        "an answer that marks a shortest path with `o` and changes nothing else": (
            ~is_solution(questions, answers)[:, None]
        ),
    }
    for wanted, wrong in faults.items():
        if wrong.any():
            line = rows.lines[int(wrong.any(axis=1).argmax())]
            raise bad_row(path, line, wanted, "other cells")
    return questions, answers
