"""Build a dataset from lists of Sudoku in CSV form.

Source: official `dataset/build_sudoku_dataset.py`. Unlike there, the subsample and the
augmentations come from a seed, and rows are checked.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from configs import SudokuExtreme
from data.folder import check_vacant, require_memory
from data.puzzles.lists import names_of, read_rows, read_splits, require_rows
from data.puzzles.sudoku.board import BOXES, Box, is_solved
from data.puzzles.sudoku.symmetries import augment
from data.puzzles.writer import Examples, write_puzzles

BOX = BOXES[9]
CELLS = BOX.size**2


def build(config: SudokuExtreme, out: Path) -> None:
    """Build the dataset in `out`; only training puzzles are augmented.

    Raises:
        UserError: if `out` is not vacant, the CSV files are bad or unavailable, or the
            augmentations do not fit into memory.
    """
    check_vacant(out)
    read = partial(read_csv, min_difficulty=config.min_difficulty)
    train, test = read_splits(config, "sudoku", out, read)
    check_memory(len(train[0]), config.augmentations, BOX)
    rng = np.random.default_rng((config.seed, 1))
    augmented = augment(*train, config.augmentations, BOX, rng)
    splits = {
        "train": to_tokens(*augmented, per_group=1 + config.augmentations),
        "test": to_tokens(*test),
    }
    extra = {"seed": config.seed, "source": names_of(config)}
    write_puzzles(splits, out, kind="sudoku", vocab_size=BOX.size + 2, extra=extra)


def to_tokens(
    questions: UInt8[np.ndarray, "boards seq"],
    answers: UInt8[np.ndarray, "boards seq"],
    per_group: int = 1,
) -> Examples:
    """Return boards of digits, 0 for an empty cell, as the tokens of a dataset."""
    return Examples(questions + np.uint8(1), answers + np.uint8(1), per_group)


def check_memory(puzzles: int, augmentations: int, box: Box) -> None:
    """Raise `UserError` unless the augmented puzzles fit into memory."""
    require_memory(
        puzzles * (1 + augmentations) * box.size**2 * 8,  # measured: 7.4 bytes a cell
        f"{puzzles:,} puzzles with {augmentations:,} augmentations each",
        "Use fewer `--augmentations` or puzzles.",
    )


def read_csv(
    path: str | Path, min_difficulty: int | None = None
) -> tuple[UInt8[np.ndarray, "puzzles 81"], UInt8[np.ndarray, "puzzles 81"]]:
    """Read questions and answers as digits.

    Args:
        path: a `.csv` or `.csv.gz` file with the columns `question` and `answer`, or
            Kaggle's `quizzes,solutions` and `puzzle,solution`. Empty cells are `.` or
            `0`.
        min_difficulty: least `rating` to keep; None keeps all.

    Raises:
        UserError: if the file is missing or any row is wrong.
    """
    rows = read_rows(path, CELLS, rated=min_difficulty is not None)
    boards = _digits(rows.questions), _digits(rows.answers)
    _check_boards(*boards, Path(path), rows.lines)
    keep = slice(None) if min_difficulty is None else rows.ratings >= min_difficulty
    return boards[0][keep], boards[1][keep]


def _digits(boards: Sequence[str]) -> UInt8[np.ndarray, "puzzles 81"]:
    """Return boards as digits: 0 for `.`, more than 9 for other characters."""
    text = "".join(boards).replace(".", "0").encode("ascii", errors="replace")
    return np.frombuffer(text, np.uint8).reshape(-1, CELLS) - np.uint8(ord("0"))


def _check_boards(
    questions: UInt8[np.ndarray, "puzzles 81"],
    answers: UInt8[np.ndarray, "puzzles 81"],
    path: Path,
    lines: Sequence[int],
) -> None:
    """Raise `UserError` unless the answers solve the questions."""
    given = questions != 0
    faults = {
        "a question of digits and dots": (questions > 9).any(axis=1),
        "an answer of digits 1 to 9": ((answers < 1) | (answers > 9)).any(axis=1),
        "an answer that keeps the givens": (given & (questions != answers)).any(axis=1),
        "an answer with every digit once in each row, column and box": ~is_solved(
            np.minimum(answers, 10), BOX
        ),
    }
    require_rows(path, lines, faults)
