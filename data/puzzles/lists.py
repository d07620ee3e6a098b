"""Find and read lists of puzzles in CSV form: `question`, `answer` and `rating`.

Each kind of puzzle reads the characters and checks the answers itself.
"""

import csv
import gzip
import shlex
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from configs import MazeHard, SudokuExtreme, UserError, require

Boards = UInt8[np.ndarray, "_ seq"]
COLUMNS = {
    "question": ("question", "puzzle", "quizzes"),
    "answer": ("answer", "solution", "solutions"),
    "rating": ("rating",),
}
"""Titles that a column may have; the others are from Kaggle's lists of Sudoku."""


class Rows(NamedTuple):
    """The rows of a list, in order."""

    questions: list[str]
    answers: list[str]
    ratings: Int64[np.ndarray, " rows"]
    """0 without such a column."""

    lines: list[int]
    """Last line of each row in the file."""


def read_splits(
    config: SudokuExtreme | MazeHard,
    command: str,
    out: Path,
    read: Callable[[Path], tuple[Boards, Boards]],
) -> tuple[tuple[Boards, Boards], tuple[Boards, Boards]]:
    """Return questions and answers for training, subsampled, and for testing.

    Args:
        config: settings that name the files or the source.
        command: command of `python -m data.prepare`, for an error message.
        out: the folder to make, for an error message.
        read: returns questions and answers of a file.

    Raises:
        UserError: if a split has no puzzle or puzzles have different sizes.
    """
    splits = []
    for split in ("train", "test"):
        paths = find_lists(config, split, command, out)
        questions, answers = zip(*map(read, paths), strict=True)
        require(
            any(map(len, questions)),
            f"A split must have a puzzle: got none for {split} in "
            f"{', '.join(map(str, paths))}. Use other files or fewer conditions.",
        )
        splits.append((questions, answers))
    sizes = sorted({part.shape[1] for questions, _ in splits for part in questions})
    require(
        len(sizes) == 1,
        "Puzzles of a dataset must have the same size: got "
        f"{', '.join(map(str, sizes))} cells. Build a dataset for each size.",
    )
    train, test = (
        (np.concatenate(questions), np.concatenate(answers))
        for questions, answers in splits
    )
    total = len(train[0])
    if config.subsample is not None and config.subsample < total:
        rng = np.random.default_rng((config.seed, 0))
        chosen = rng.choice(total, config.subsample, replace=False)
        train = train[0][chosen], train[1][chosen]
    return train, test


def find_lists(
    config: SudokuExtreme | MazeHard, split: str, command: str, out: Path
) -> list[Path]:
    """Return the CSV files of a split: local files, or the file of the source.

    Args:
        config: settings that name the files or the source.
        split: `train` or `test`.
        command: command of `python -m data.prepare`, for the error message.
        out: the folder to make, for the error message.

    Raises:
        UserError: if the source has no such file.
    """
    local = config.train_csv if split == "train" else config.test_csv
    if local:
        return [Path(name) for name in local]
    folder = Path(config.source)
    if folder.is_dir():
        for name in (f"{split}.csv", f"{split}.csv.gz"):
            if (folder / name).is_file():
                return [folder / name]
        raise UserError(
            f"`{split}.csv` and `{split}.csv.gz` not found in {folder}. Add one, or "
            "name the files with `--train-csv` and `--test-csv`."
        )
    try:
        from huggingface_hub import hf_hub_download

        file = f"{split}.csv"
        return [Path(hf_hub_download(config.source, file, repo_type="dataset"))]
    except Exception as error:
        raise UserError(
            f"Could not download `{split}.csv` of the Hugging Face dataset "
            f"{config.source!r} ({type(error).__name__}: {error}). If you have the CSV "
            f"files, run\n  {_local_command(config, command, out)}"
        ) from error


def _local_command(config: SudokuExtreme | MazeHard, command: str, out: Path) -> str:
    """Return the command that builds the same dataset from local files."""
    words = ["python", "-m", "data.prepare", command, "--out", str(out)]
    words += ["--train-csv", "train.csv", "--test-csv", "test.csv"]
    files = ("source", "train_csv", "test_csv")
    for option in (field for field in fields(config) if field.name not in files):
        value, name = getattr(config, option.name), option.name.replace("_", "-")
        if isinstance(value, bool) and value != option.default:
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value != option.default:
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def names_of(config: SudokuExtreme | MazeHard) -> str:
    """Return the source of the puzzles for `dataset.json`."""
    files = [Path(name).name for name in (*config.train_csv, *config.test_csv)]
    return ", ".join(files) or config.source


def read_rows(
    path: str | Path, cells: int | None = None, *, rated: bool = False
) -> Rows:
    """Read a `.csv` or `.csv.gz` file.

    Args:
        path: the file.
        cells: cells of every question and answer; None: as in the first question.
        rated: require the column `rating`.

    Raises:
        UserError: if the file is missing or has another form.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"CSV file not found: {path}. Check the path.")
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", errors="replace") as file:
            return _read(file, path, cells, rated)
    except (csv.Error, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"Could not read the CSV file {path} ({error}). Download it again."
        ) from None


def _read(file: Iterable[str], path: Path, cells: int | None, rated: bool) -> Rows:
    """Read the rows of an open file."""
    reader = csv.reader(file)
    header = next(reader, [])
    at = {
        column: header.index(title)
        for column, titles in COLUMNS.items()
        for title in titles
        if title in header
    }
    wanted = ("question", "answer", *(("rating",) if rated else ()))
    if not at.keys() >= set(wanted):
        titles = f"a header with {', '.join(wanted)}"
        raise bad_row(path, 1, titles, f"{','.join(header)!r:.80}")
    questions, answers, ratings, lines = [], [], [], []
    for row in filter(None, reader):  # without blank lines
        line = reader.line_num
        if len(row) != len(header):
            raise bad_row(path, line, f"{len(header)} columns", len(row))
        question, answer = row[at["question"]], row[at["answer"]]
        rating = row[at["rating"]] if "rating" in at else "0"
        cells = cells or len(question)
        for name, text in (("question", question), ("answer", answer)):
            if len(text) != cells:
                raise bad_row(path, line, f"{cells} cells as its {name}", len(text))
        try:
            ratings.append(np.int64(rating))
        except (ValueError, OverflowError):
            wanted = "an integer rating of 64 bits"
            raise bad_row(path, line, wanted, f"{rating!r:.40}") from None
        questions.append(question)
        answers.append(answer)
        lines.append(line)
    return Rows(questions, answers, np.array(ratings, dtype=np.int64), lines)


def bad_row(path: Path, line: int, wanted: str, got: object) -> UserError:
    """Return the error for a row that breaks the format."""
    return UserError(
        f"{path}, line {line}: a row must have {wanted}: got {got}. "
        "Correct or remove the line, or download the file again."
    )


def require_rows(
    path: Path, lines: Sequence[int], faults: Mapping[str, Bool[np.ndarray, " rows"]]
) -> None:
    """Raise `UserError` for the first row with a fault; keys are what it must have."""
    for wanted, wrong in faults.items():
        if wrong.any():
            raise bad_row(path, lines[int(wrong.argmax())], wanted, "other cells")
