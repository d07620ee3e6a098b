"""Lists of 9x9 Sudoku in CSV form, read and checked row by row."""

import csv
import gzip
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from data.puzzles.board import BOXES, is_solved

HEADER = ["source", "question", "answer", "rating"]
BOX = BOXES[9]
CELLS = BOX.size**2


def read_csv(
    path: str | Path, min_difficulty: int | None = None
) -> tuple[UInt8[np.ndarray, "puzzles 81"], UInt8[np.ndarray, "puzzles 81"]]:
    """Return questions and answers of the rows rated `min_difficulty` or more.

    Args:
        path: a `.csv` or `.csv.gz` file with the columns `source,question,answer,
            rating`. Empty cells are `.` or `0`.
        min_difficulty: least rating to keep; None keeps all.

    Raises:
        ValueError: if the file is missing or a row, even one not kept, is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"A CSV file must exist: there is no {path}. Check the path.")
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", errors="replace") as file:
            questions, answers, ratings, lines = _read_rows(file, path)
    except (csv.Error, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"A puzzle list must be a readable CSV file: {path} is not ({error}). "
            "Download it again."
        ) from None
    boards = _digits(questions), _digits(answers)
    _check_boards(*boards, path, lines)
    keep = slice(None) if min_difficulty is None else ratings >= min_difficulty
    return boards[0][keep], boards[1][keep]


def _read_rows(
    file: Iterable[str], path: Path
) -> tuple[list[str], list[str], Int[np.ndarray, " rows"], list[int]]:
    """Return questions, answers, ratings and the line number of every row."""
    reader = csv.reader(file)
    if (header := next(reader, [])) != HEADER:
        raise _bad_row(path, 1, f"the header {','.join(HEADER)}", ",".join(header))
    questions, answers, ratings, lines = [], [], [], []
    for row in reader:
        line = reader.line_num
        if len(row) != len(HEADER):
            raise _bad_row(path, line, f"{len(HEADER)} columns", len(row))
        _, question, answer, rating = row
        for name, cells in (("question", question), ("answer", answer)):
            if len(cells) != CELLS:
                raise _bad_row(path, line, f"a {name} of {CELLS} cells", len(cells))
        try:
            ratings.append(int(rating))
        except ValueError:
            raise _bad_row(path, line, "an integer rating", repr(rating)) from None
        questions.append(question)
        answers.append(answer)
        lines.append(line)
    return questions, answers, np.array(ratings, dtype=np.int64), lines


def _digits(boards: Sequence[str]) -> UInt8[np.ndarray, "puzzles 81"]:
    """Return boards as digits, 0 for `.`, and above 9 for what is neither."""
    text = "".join(boards).replace(".", "0").encode("ascii", errors="replace")
    return np.frombuffer(text, np.uint8).reshape(-1, CELLS) - np.uint8(ord("0"))


def _check_boards(
    questions: UInt8[np.ndarray, "puzzles 81"],
    answers: UInt8[np.ndarray, "puzzles 81"],
    path: Path,
    lines: Sequence[int],
) -> None:
    """Raise `ValueError` unless the answers solve the questions."""
    given = questions != 0
    faults = {
        "a question of digits and dots": (questions > 9).any(axis=1),
        "an answer of digits 1 to 9": ((answers < 1) | (answers > 9)).any(axis=1),
        "an answer that keeps the givens": (given & (questions != answers)).any(axis=1),
        "an answer with every digit once in each row, column and box": ~is_solved(
            np.minimum(answers, 10), BOX
        ),
    }
    for wanted, wrong in faults.items():
        if wrong.any():
            line = lines[int(wrong.argmax())]
            raise _bad_row(path, line, wanted, "other cells")


def _bad_row(path: Path, line: int, wanted: str, got: object) -> ValueError:
    """Return the error for a row that breaks the format."""
    return ValueError(
        f"{path}, line {line}: a row must have {wanted}: got {got}. "
        "Correct or remove the line, or download the file again."
    )
