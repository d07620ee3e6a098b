"""Puzzles as a person writes them: text to tokens, checked.

Every reader takes a text, of one or many puzzles, and what to call it (the name of a
file, or nothing).
"""

import gzip
import json
import math
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Integer

from configs import UserError, require
from data.puzzles.arc import grid as arc_grid
from data.puzzles.arc import tasks as arc_tasks
from data.puzzles.maze import kind as maze
from data.puzzles.sudoku.board import Box


class Question(NamedTuple):
    """A puzzle to solve."""

    name: str
    """What to call it."""

    tokens: Integer[np.ndarray, " seq"]
    """As the model reads it."""

    answer: Integer[np.ndarray, " seq"] | None = None
    """What is right, of a kind without rules, if it is known."""

    identifier: str = ""
    """Its name in the puzzle table; empty for the blank one."""


def text_of(word: str) -> tuple[str, str]:
    """What is in the file of this name, and its stem; or else the word, and nothing.

    Raises:
        UserError: if it looks like a file and is none, or holds no text (`.gz`: text
            that is gzipped).
    """
    path = Path(word)
    try:
        if not path.is_file():
            require(
                path.suffix not in (".txt", ".json", ".csv", ".gz") and "/" not in word,
                f"A file of puzzles must exist: there is no `{word}`. Check the path.",
            )
            return word, ""
    except OSError:  # too long for a name
        return word, ""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        return data.decode(), path.name.split(".")[0]
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"A file of puzzles must be text in UTF-8, or that gzipped: `{word}` is "
            f"not ({error}). Check the path."
        ) from error


def table_rows(
    names: Sequence[str], folder: Path, rows: int
) -> Int32[np.ndarray, " names"]:
    """The rows of the puzzle table that these names have; 0 for the empty name.

    Warns of a name without one: ARC's models know a task by its row alone.

    Args:
        names: of puzzles.
        folder: of the dataset; its `identifiers.json` holds the names in order.
        rows: of the table.
    """
    found = {"": 0}
    if any(names):
        path = folder / "identifiers.json"
        known = json.loads(path.read_text()) if path.is_file() else []
        if len(known) == rows:  # else they are of other puzzles
            found |= {name: row for row, name in enumerate(known) if row}
    if missing := sorted(set(names) - found.keys()):
        warnings.warn(
            f"A model must have been trained on the examples of a task to know what it "
            f"asks: this run was not on those of {', '.join(missing):.100}, or its "
            "`identifiers.json` is not at hand. Its answers are guesses.",
            stacklevel=2,
        )
    return np.array([found.get(name, 0) for name in names], np.int32)


def read_sudoku(text: str, box: Box) -> list[Question]:
    """A puzzle a line: a character a cell, `.` or `0` where it is empty.

    Raises:
        UserError: if a line has another length or another character.
    """
    cells, questions = box.size**2, []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line:
            continue
        if len(line) != cells:
            raise UserError(
                f"A Sudoku of this model must have {cells} characters: line {number} "
                f"has {len(line)}. Give {box.size} rows of {box.size} cells in a line, "
                "`.` or `0` for an empty one."
            )
        allowed = ".0123456789"[: box.size + 2]
        for place, sign in enumerate(line):
            if sign not in allowed:
                row, column = divmod(place, box.size)
                raise UserError(
                    f"A cell of this model's Sudoku must be a digit from 1 to "
                    f"{box.size}, or `.` or `0` if it is empty: line {number} has "
                    f"{sign!r} in row {row + 1}, column {column + 1}. Correct it, or "
                    "ask a model of another size."
                )
        tokens = np.array([1 if sign == "." else int(sign) + 1 for sign in line])
        questions.append(Question(line, tokens.astype(np.int32)))
    return questions


def read_mazes(text: str, seq: int, name: str = "") -> list[Question]:
    """A maze a line, or in a line a row and between two mazes an empty line.

    Raises:
        UserError: if one is no maze (see `maze.parse`) or of another size.
    """
    lines = [line for line in text.splitlines() if line]
    one_a_line = bool(lines) and all(len(line) == seq for line in lines)
    blocks = lines if one_a_line else _blocks(text)
    questions = []
    for number, block in enumerate(blocks, start=1):
        what = f"{name or 'maze'} {number}" if len(blocks) > 1 else name or "maze"
        try:
            tokens = maze.parse(block).astype(np.int32)
        except UserError as error:
            raise UserError(f"{what}: {error}") from None
        side = math.isqrt(seq)
        require(
            len(tokens) == seq,
            f"{what}: A maze of this model must be {side} by {side} cells: got "
            f"{len(tokens)} cells. Ask a model of another size.",
        )
        questions.append(Question(what, tokens))
    return questions


def _blocks(text: str) -> list[str]:
    """The parts of a text between empty lines."""
    parts: list[list[str]] = [[]]
    for line in text.splitlines():
        if line:
            parts[-1].append(line)
        else:
            parts.append([])
    return ["\n".join(part) for part in parts if part]


def read_arc(text: str, name: str = "") -> list[Question]:
    """The test inputs of an ARC task in JSON, or of all tasks in a file of many.

    Raises:
        UserError: if it is no such JSON.
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
        for question in _test_inputs(task, parts, what)
    ]


def _test_inputs(task: str, parts: Any, what: str) -> list[Question]:
    """The questions of a task."""
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
        grid = lambda side, pair=pair, where=where: arc_grid.to_tokens(
            arc_tasks.as_grid(pair[side], f"{where}, {side}: a grid")
        ).astype(np.int32)
        answer = grid("output") if "output" in pair else None
        questions.append(Question(where, grid("input"), answer, task or what))
    return questions


def read_numbers(text: str, seq: int, vocab: int) -> list[Question]:
    """A puzzle a line: its tokens, with blanks or commas between them.

    Raises:
        UserError: if a line has another length, or what is no token.
    """
    questions = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        if len(words) != seq:
            raise UserError(
                f"A puzzle of this model must have {seq} tokens: line {number} has "
                f"{len(words)}. Give all of them in a line."
            )
        for word in words:
            if not (word.isascii() and word.isdigit() and int(word) < vocab):
                raise UserError(
                    f"A token of this model must be a number below {vocab}: line "
                    f"{number} has {word!r:.40}. Correct it."
                )
        tokens = np.array(list(map(int, words)), np.int32)
        questions.append(Question(f"line {number}", tokens))
    return questions
