"""Puzzles to solve, and the files and table rows that belong to them."""

import gzip
import json
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Integer

from configs import UserError, require


class Question(NamedTuple):
    """A puzzle to solve."""

    name: str
    """Title in messages and pictures."""

    tokens: Integer[np.ndarray, " seq"]
    """Input of the model."""

    answer: Integer[np.ndarray, " seq"] | None = None
    """The known answer, for kinds without rules."""

    identifier: str = ""
    """Name in the puzzle table; empty for the blank row."""


def text_of(word: str) -> tuple[str, str]:
    """Return the text of the file `word` and its stem, or else `word` and "".

    Raises:
        UserError: if `word` looks like a file that does not exist, or the file is not
            UTF-8 text (`.gz`: gzipped text).
    """
    path = Path(word)
    try:
        if not path.is_file():
            require(
                path.suffix not in (".txt", ".json", ".csv", ".gz") and "/" not in word,
                f"File of puzzles not found: {word}. Check the path.",
            )
            return word, ""
    except OSError:  # too long for a name
        return word, ""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"Damaged `.gz` file: {path} ({error}). Copy or download it again."
        ) from error
    return decode(data, word), path.name.split(".")[0]


def decode(data: bytes, name: str) -> str:
    """Return UTF-8 text without its byte order mark.

    Raises:
        UserError: if it is not UTF-8, as UTF-16 of Windows.
    """
    try:
        text = data.decode("utf-8-sig")
        problem = "it has null characters" if "\0" in text else ""
    except UnicodeDecodeError as error:
        text, problem = "", str(error)
    require(
        not problem,
        f"Puzzles must be UTF-8 text: {name} is not ({problem}). Convert it, for "
        "example with `iconv -f UTF-16 -t UTF-8`.",
    )
    return text


def table_rows(
    names: Sequence[str], folder: Path, rows: int
) -> Int32[np.ndarray, " names"]:
    """Return the row of the puzzle table for each name; 0 for the empty name.

    Warns of names without a row: ARC models identify a task by its row alone.

    Args:
        names: names of puzzles.
        folder: the dataset; `identifiers.json` lists the names of the rows.
        rows: rows of the table.
    """
    row_of = {"": 0}
    if any(names):
        path = folder / "identifiers.json"
        known = (
            json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else []
        )
        if len(known) == rows:  # else they are of other puzzles
            row_of |= {name: row for row, name in enumerate(known) if row}
    if missing := sorted(set(names) - row_of.keys()):
        warnings.warn(
            "A model must have been trained on the examples of a task: got "
            f"{', '.join(missing):.100}, which this run was not trained on, or its "
            "`identifiers.json` is not at hand. The answers are guesses.",
            stacklevel=2,
        )
    return np.array([row_of.get(name, 0) for name in names], np.int32)
