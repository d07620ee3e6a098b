"""Build a dataset from lists of mazes in CSV form.

Source: official `dataset/build_maze_dataset.py`.
"""

import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from configs import MazeHard, UserError
from data.folder import check_vacant
from data.puzzles.lists import (
    bad_row,
    names_of,
    read_rows,
    read_splits,
    require_rows,
)
from data.puzzles.maze.flood import LARGEST
from data.puzzles.maze.kind import GOAL, START, VOCAB, Mazes, is_solution, to_tokens
from data.puzzles.symmetry import SYMMETRIES, turn
from data.puzzles.writer import Examples, write_puzzles


def build(config: MazeHard, out: Path) -> None:
    """Build the dataset in `out`; only training mazes are augmented.

    Raises:
        UserError: if `out` is not vacant, or the CSV files are bad or unavailable.
    """
    check_vacant(out)
    train, test = read_splits(config, "maze", out, read_csv)
    write_mazes(
        Examples(*train),
        Examples(*test),
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
    """Write mazes as a dataset; `dihedral`: augment training mazes."""
    if dihedral:
        train = Examples(
            dihedral_views(train.inputs), dihedral_views(train.labels), SYMMETRIES
        )
    splits = {"train": train, "test": test}
    write_puzzles(splits, out, kind="maze", vocab_size=VOCAB, extra=extra)


def dihedral_views(mazes: Mazes) -> UInt8[np.ndarray, "mazes*8 seq"]:
    """Return each maze followed by its 7 other rotations and reflections.

    Source: official `dataset/common.py`, `dihedral_transform`, in its order.
    """
    side = math.isqrt(mazes.shape[1])
    grids = mazes.reshape(-1, side, side)
    turned = [turn(grids, symmetry) for symmetry in range(SYMMETRIES)]
    return np.stack(turned, axis=1).reshape(-1, side * side)


def read_csv(path: str | Path) -> tuple[Mazes, Mazes]:
    """Read questions and answers of a `.csv` or `.csv.gz` file.

    Raises:
        UserError: if the file is missing or a row breaks the rules.
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
        "a question of `#`, spaces, `S` and `G`": (
            (questions == 0) | (questions > GOAL)
        ).any(axis=1),
        "one start": (questions == START).sum(axis=1) != 1,
        "one goal": (questions == GOAL).sum(axis=1) != 1,
        "an answer that marks a shortest path with `o` and changes nothing else": (
            ~is_solution(questions, answers)
        ),
    }
    require_rows(path, rows.lines, faults)
    return questions, answers
