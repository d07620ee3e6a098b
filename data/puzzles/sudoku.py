"""Sudoku-Extreme: from lists of puzzles in CSV form to a dataset.

Source: official `dataset/build_sudoku_dataset.py`. Unlike there, the subsample and the
images come from a seed, and rows are checked.
"""

import csv
import gzip
import shlex
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from configs import SudokuExtreme, UserError
from data.folder import check_vacant
from data.puzzles.board import BOXES, augment, is_solved
from data.puzzles.writer import Boards, write_sudoku

HEADER = ["source", "question", "answer", "rating"]
BOX = BOXES[9]
CELLS = BOX.size**2


def build(config: SudokuExtreme, out: Path) -> None:
    """Build the dataset in `out`; only training puzzles get images.

    Raises:
        UserError: if `out` is not vacant, or the CSV files are bad or not to be had.
    """
    check_vacant(out)
    train = _read_split(config, "train", out)
    test = _read_split(config, "test", out)
    total = len(train[0])
    if config.subsample is not None and config.subsample < total:
        rng = np.random.default_rng((config.seed, 0))
        chosen = rng.choice(total, size=config.subsample, replace=False)
        train = (train[0][chosen], train[1][chosen])
    rng = np.random.default_rng((config.seed, 1))
    images = augment(*train, config.augmentations, BOX, rng)
    splits = {
        "train": Boards(*images, images=1 + config.augmentations),
        "test": Boards(*test),
    }
    files = [Path(name).name for name in (*config.train_csv, *config.test_csv)]
    source = ", ".join(files) or config.source
    write_sudoku(splits, out, {"seed": config.seed, "source": source})


def _read_split(
    config: SudokuExtreme, split: str, out: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Return questions and answers of all files of a split, in order."""
    local = config.train_csv if split == "train" else config.test_csv
    paths = [Path(name) for name in local] or [_locate(config, split, out)]
    tables = [read_csv(path, config.min_difficulty) for path in paths]
    questions, answers = (
        np.concatenate(boards) for boards in zip(*tables, strict=True)
    )
    if not len(questions):
        raise UserError(
            f"A split must have a puzzle: {', '.join(map(str, paths))} have none rated "
            f"{config.min_difficulty} or more. Lower `--min-difficulty`."
        )
    return questions, answers


def _locate(config: SudokuExtreme, split: str, out: Path) -> Path:
    """Return the CSV file of a split in the source folder, or from the hub."""
    folder = Path(config.source)
    if folder.is_dir():
        for name in (f"{split}.csv", f"{split}.csv.gz"):
            if (folder / name).is_file():
                return folder / name
        raise UserError(
            f"A source folder must hold `{split}.csv` or `{split}.csv.gz`: {folder} "
            "has neither. Add the file, or name it with `--train-csv` and `--test-csv`."
        )
    try:
        from huggingface_hub import hf_hub_download

        file = f"{split}.csv"
        return Path(hf_hub_download(config.source, file, repo_type="dataset"))
    except Exception as error:
        raise UserError(
            f"`{split}.csv` must come from the Hugging Face dataset {config.source!r}: "
            f"it could not be downloaded ({type(error).__name__}: {error}). With the "
            f"CSV files at hand, run\n  {_local_command(config, out)}"
        ) from error


def _local_command(config: SudokuExtreme, out: Path) -> str:
    """Return the command that builds the same dataset from local files."""
    words = ["python", "-m", "data.prepare", "sudoku", "--out", str(out)]
    words += ["--train-csv", "train.csv", "--test-csv", "test.csv"]
    default = SudokuExtreme()
    for name in ("subsample", "augmentations", "min_difficulty", "seed"):
        value = getattr(config, name)
        if value != getattr(default, name):
            words += ["--" + name.replace("_", "-"), str(value)]
    return shlex.join(words)


def read_csv(
    path: str | Path, min_difficulty: int | None = None
) -> tuple[UInt8[np.ndarray, "puzzles 81"], UInt8[np.ndarray, "puzzles 81"]]:
    """Return questions and answers of the rows rated `min_difficulty` or more.

    Args:
        path: a `.csv` or `.csv.gz` file with the columns `source,question,answer,
            rating`. Empty cells are `.` or `0`.
        min_difficulty: least rating to keep; None keeps all.

    Raises:
        UserError: if the file is missing or a row, even one not kept, is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"A CSV file must exist: there is no {path}. Check the path.")
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", errors="replace") as file:
            questions, answers, ratings, lines = _read_rows(file, path)
    except (csv.Error, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
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
    for wanted, wrong in faults.items():
        if wrong.any():
            line = lines[int(wrong.argmax())]
            raise _bad_row(path, line, wanted, "other cells")


def _bad_row(path: Path, line: int, wanted: str, got: object) -> UserError:
    """Return the error for a row that breaks the format."""
    return UserError(
        f"{path}, line {line}: a row must have {wanted}: got {got}. "
        "Correct or remove the line, or download the file again."
    )
