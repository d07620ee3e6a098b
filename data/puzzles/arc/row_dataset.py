"""Batches of rows of tokens from an ARC dataset; see `rows.py`."""

import copy
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from configs import require
from data.puzzles.arc.rows import (
    END,
    FIRST_TASK,
    cut_out,
    labels_of,
    longest_row,
    prompt_of,
    row_of,
)
from data.puzzles.arc.tasks import read_json
from data.puzzles.arc.voting import Votes
from data.puzzles.dataset import Puzzle, PuzzleDataset
from data.remote import local_dataset
from data.text.dataset import IGNORE, Tokens


class Question(NamedTuple):
    """An augmented pair: a prompt, and the output to write."""

    identifier: int
    """Of the puzzle."""

    given: UInt8[np.ndarray, "rows columns"]
    wanted: UInt8[np.ndarray, "rows2 columns2"]
    """The output; `[[0]]` where it is secret."""

    prompt: Int32[np.ndarray, " tokens"]


class RowDataset:
    """A split of ARC datasets as rows of tokens; only outputs are targets.

    Batches have the examples of `PuzzleDataset`, in its order. Grids are cut out of
    their canvases.

    Attributes:
        puzzles: the pairs on canvases.
        bytes_per_token: None; a text has a number.
    """

    bytes_per_token = None

    def __init__(
        self,
        paths: Sequence[str | Path],
        split: str,
        *,
        length: int,
        batch_size: int,
        seed: int = 0,
        epochs_per_block: int = 1,
        rows: Integer[np.ndarray, " rows"] | None = None,
    ):
        """Open and check the datasets.

        Args:
            paths: dataset directories.
            split: `train` or `test`.
            length: tokens of a sequence; a row has at most one more.
            batch_size: rows of a batch, over all processes.
            seed: seed of the order.
            epochs_per_block: epochs joined before a partial batch is dropped.
            rows: the rows of each batch to load, in order; None loads all.

        Raises:
            UserError: if these are no ARC datasets, or `length` is too small.
        """
        self.puzzles = PuzzleDataset(
            paths,
            split,
            batch_size=batch_size,
            seed=seed,
            epochs_per_block=epochs_per_block,
            rows=rows,
            in_rounds=True,
        )
        self._paths, self.length = paths, length
        require(
            self.puzzles.metadata.kind == "arc",
            f"Rows of tokens need a dataset of ARC: {paths[0]} is of "
            f"{self.puzzles.metadata.kind or 'an unknown kind'}. Build one with "
            "`python -m data.prepare arc`.",
        )
        side = math.isqrt(self.puzzles.metadata.seq_len)
        needed = longest_row(side) - 1
        require(
            length >= needed,
            f"`block_size` must be at least {needed} for grids of up to {side} rows "
            f"and columns: got {length}. Use {needed}, or build a dataset with a "
            "smaller `--side`.",
        )

    @cached_property
    def _names(self) -> list[str]:
        """Names of all puzzles, by identifier."""
        folders = map(local_dataset, self._paths)
        files = [read_json(folder / "identifiers.json") for folder in folders]
        return [name for names in files for name in names]

    @cached_property
    def _labels(self) -> tuple[Int32[np.ndarray, "puzzles 2"], int]:
        return labels_of(self._names)

    @property
    def vocab_size(self) -> int:
        """Tokens and labels."""
        return FIRST_TASK + self._labels[1]

    @property
    def content_hash(self) -> str:
        """Hash of the split's content."""
        return self.puzzles.content_hash

    def batch(self, step: int) -> Tokens:
        """Return this process's rows of training batch `step`, counted from 0.

        A pure function of seed and step; thread-safe.
        """
        return self._tokens(self.puzzles.batch(step))

    def resized(
        self,
        first_step: int,
        batch_size: int,
        rows: Integer[np.ndarray, " rows"] | None = None,
    ) -> "RowDataset":
        """Return the same order of rows in other batches; see `PuzzleDataset`."""
        other = copy.copy(self)
        other.puzzles = self.puzzles.resized(first_step, batch_size, rows)
        return other

    def first(self) -> Tokens:
        """Return the first batch in order: a row of each task, then another, ..."""
        return self._tokens(self.puzzles.test_batch(0))

    def questions(self, most: int | None = None) -> Iterator[Question]:
        """Yield the first `most` examples (None: all), in the order of `first`."""
        for index in range(self.puzzles.num_test_batches(most)):
            for _, question in self._questions(self.puzzles.test_batch(index, most)):
                yield question

    def votes(self) -> Votes:
        """Return an empty count of the answers to the test inputs."""
        return Votes.of_datasets(self._paths)

    def _questions(self, puzzles: Puzzle) -> Iterator[tuple[int, Question]]:
        """Yield the rows of a batch that are no padding, and their content."""
        blank = self.puzzles.metadata.blank_identifier_id
        for i in np.flatnonzero(puzzles.puzzle_id != blank).tolist():
            given, wanted = cut_out(puzzles.inputs[i]), cut_out(puzzles.labels[i])
            identifier = int(puzzles.puzzle_id[i])
            prompt = prompt_of(self._labels[0][identifier], given)
            yield i, Question(identifier, given, wanted, prompt)

    def _tokens(self, puzzles: Puzzle) -> Tokens:
        """Return puzzles as padded rows; rows of padding have no targets."""
        shape = len(puzzles.puzzle_id), self.length + 1
        rows = np.full(shape, END, np.int32)
        scored = np.zeros(shape, bool)
        for i, question in self._questions(puzzles):
            first, row = len(question.prompt), row_of(question.prompt, question.wanted)
            rows[i, : len(row)] = row
            scored[i, first : len(row)] = True
        targets = np.where(scored, rows, np.int32(IGNORE))
        return Tokens(rows[:, :-1], targets[:, 1:])
