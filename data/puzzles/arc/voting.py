"""Voting: one answer from a model's answers to all augmentations of an ARC task.

A model answers every augmentation of a test input. With the augmentation
undone, each answer is a vote for a grid. Grids are ranked by their votes, then by their
mean of sigmoid(q_halt).

    votes = Votes.of_datasets(["datasets/arc1concept-aug-1000"])
    votes.add(identifiers, inputs, predictions, q_halt_logits)  # batch by batch
    votes.metrics()  # {"ARC/pass@1": 0.4, "ARC/pass@2": 0.45, ...}
    votes.submission()  # {"007bbfb7": [{"attempt_1": [[0, 7], [7, 7]], ...}]}

`votes.merge` adds the `tallies` of other processes or evaluations. Results do not
depend on the order of the votes: sums are exact, and ties are decided by the
augmentation.

Source: official `evaluators/arc.py`, where ties are decided by the order of the votes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from configs import require
from data.puzzles.arc.grid import crop, parse_name, undo
from data.puzzles.arc.tasks import UNKNOWN, as_grid, read_json
from data.remote import local_dataset
from data.storage import AnyPath, write_whole

KS = (1, 2, 5, 10, 100, 1000)
"""Numbers of first answers that may contain the right one."""

ATTEMPTS = 2
"""Answers to a test input in a submission."""

PLACEHOLDER = [[0, 0], [0, 0]]
"""Answer in the competition's sample of a submission."""

CHUNK = 4096
"""Answers whose grids are cropped at once."""

Question = tuple[str, bytes]
"""A task and the key of a test input."""

Grid = list[list[int]]


def grid_key(grid: np.ndarray) -> bytes:
    """Return a grid as bytes: its shape, then its colors."""
    return bytes(grid.shape) + grid.astype(np.uint8).tobytes()


def grid_of(key: bytes) -> Grid:
    """Return the grid of a key, in the form of JSON."""
    rows, columns = key[:2]
    return np.frombuffer(key, np.uint8, offset=2).reshape(rows, columns).tolist()


class Ballot(NamedTuple):
    """The votes for the answers to a test input."""

    input: Grid
    solution: Grid | None
    """None: secret."""

    answers: list[tuple[Grid, int]]
    """The first answers with their votes, the best first."""

    votes: int
    """For all answers."""

    @property
    def solved(self) -> bool | None:
        """True if the solution is among the first answers; None if it is secret."""
        if self.solution is None:
            return None
        return self.solution in [grid for grid, _ in self.answers]


@dataclass
class Tally:
    """The votes for a grid."""

    first: int
    """Least identifier of the augmentations with this answer."""

    qs: list[float] = field(default_factory=list)
    """sigmoid(q_halt) of each vote."""

    @property
    def rank(self) -> tuple[int, float, int]:
        """Sort key of grids: the lowest is the best."""
        return -len(self.qs), -math.fsum(self.qs) / len(self.qs), self.first


Tallies = dict[Question, dict[bytes, Tally]]
"""Task and test input -> answer -> its votes."""


class Votes:
    """The answers to the test inputs of ARC tasks, counted.

    Attributes:
        tasks: name -> the task with its solutions, in the form of `test_puzzles.json`.
        tallies: the votes so far; can be pickled.
    """

    def __init__(
        self,
        identifiers: Sequence[str],
        tasks: Mapping[str, Any],
        *,
        blank_identifier: int = 0,
    ):
        """Start without votes.

        Args:
            identifiers: names of the puzzles, from `identifiers.json`.
            tasks: content of `test_puzzles.json`.
            blank_identifier: identifier of padding rows.
        """
        self.tasks = tasks
        self.tallies: Tallies = {}
        self._identifiers = identifiers
        self._blank = blank_identifier
        self._questions = {
            name: [(grid_key(as_grid(pair["input"])), pair) for pair in task["test"]]
            for name, task in tasks.items()
        }

    @classmethod
    def of_datasets(cls, paths: Sequence[str | Path]) -> "Votes":
        """Start without votes for the test tasks of one or more datasets.

        Identifiers are offset as in `PuzzleDataset`.

        Raises:
            UserError: if `identifiers.json` or `test_puzzles.json` is missing.
        """
        identifiers: list[str] = []
        tasks: dict[str, Any] = {}
        for path in map(local_dataset, paths):
            for name in ("identifiers.json", "test_puzzles.json"):
                require(
                    (path / name).is_file(),
                    f"`{name}` of an ARC dataset not found in {path}. Build the "
                    "dataset with `python -m data.prepare arc`.",
                )
            identifiers += read_json(path / "identifiers.json")
            tasks |= read_json(path / "test_puzzles.json")
        return cls(identifiers, tasks)

    def add(
        self,
        identifiers: Integer[np.ndarray, " rows"],
        inputs: Integer[np.ndarray, "rows cells"],
        predictions: Integer[np.ndarray, "rows cells"],
        q_halt_logits: Float[np.ndarray, " rows"],
    ) -> None:
        """Count answers; padding rows do not count.

        Args:
            identifiers: identifier of each row's puzzle.
            inputs: tokens of the augmented test inputs.
            predictions: tokens of the answers.
            q_halt_logits: the model's confidence in each answer.

        Raises:
            UserError: if an identifier is out of range.
        """
        real = np.flatnonzero(identifiers != self._blank)
        ids, names = identifiers[real], len(self._identifiers)
        wrong = ids[(ids < 0) | (ids >= names)].tolist()
        require(
            not wrong,
            f"Identifiers must be in 0 .. {names - 1}: got {wrong[:1]}. Use the "
            "evaluated dataset.",
        )
        for start in range(0, len(real), CHUNK):
            rows = real[start : start + CHUNK]
            q = np.exp(-np.logaddexp(0, -q_halt_logits[rows].astype(np.float64)))
            grids = crop(inputs[rows]), crop(predictions[rows])
            for row in zip(identifiers[rows].tolist(), *grids, q.tolist(), strict=True):
                self._count(*row)

    def _count(
        self, identifier: int, question: np.ndarray, answer: np.ndarray, q: float
    ) -> None:
        """Count one answer; both grids are augmented."""
        name, symmetry, colors = parse_name(self._identifiers[identifier])
        where = name, grid_key(undo(question, symmetry, colors))
        tally = self._tally(where, grid_key(undo(answer, symmetry, colors)), identifier)
        tally.first = min(tally.first, identifier)
        tally.qs.append(q)

    def merge(self, tallies: Tallies) -> None:
        """Add the `tallies` of another process or evaluation."""
        for where, answers in tallies.items():
            for key, theirs in answers.items():
                ours = self._tally(where, key, theirs.first)
                ours.first = min(ours.first, theirs.first)
                ours.qs += theirs.qs

    def metrics(self, ks: Sequence[int] = KS) -> dict[str, float]:
        """Return `ARC/pass@K` for each K: the mean share of solved inputs of a task.

        A test input is solved if its solution is among the first K answers. Empty if
        all solutions are secret.
        """
        pairs = [pair for asked in self._questions.values() for _, pair in asked]
        if all(pair["output"] == UNKNOWN for pair in pairs):
            return {}
        solved = dict.fromkeys(ks, 0.0)
        for name, questions in self._questions.items():
            right = dict.fromkeys(ks, 0)
            for key, pair in questions:
                solution = grid_key(as_grid(pair["output"]))
                ranked = self._ranked(name, key)
                for k in ks:
                    right[k] += solution in ranked[:k]
            for k in ks:
                solved[k] += right[k] / len(questions)
        return {f"ARC/pass@{k}": solved[k] / len(self._questions) for k in ks}

    def submission(self, attempts: int = ATTEMPTS) -> dict[str, list[dict[str, Grid]]]:
        """Return the first answers to each test input, in the competition's form.

        The first answer is repeated if there are too few. A test input without an
        answer gets the competition's placeholder (the official code omits it, which
        shifts the answers to the inputs after it).
        """
        submission = {}
        for name in self.tasks:
            submission[name] = []
            for ballot in self.ballots(name, attempts):
                grids = [grid for grid, _ in ballot.answers]
                grids += (grids[:1] or [PLACEHOLDER]) * (attempts - len(grids))
                named = {f"attempt_{i}": grid for i, grid in enumerate(grids, 1)}
                submission[name].append(named)
        return submission

    def ballots(self, name: str, most: int = ATTEMPTS) -> list[Ballot]:
        """Return the `most` first answers to each test input of a task."""
        ballots = []
        for key, pair in self._questions[name]:
            tallies = self.tallies.get((name, key), {})
            best = self._ranked(name, key)[:most]
            answers = [(grid_of(grid), len(tallies[grid].qs)) for grid in best]
            solution = pair["output"] if pair["output"] != UNKNOWN else None
            votes = sum(len(tally.qs) for tally in tallies.values())
            ballots.append(Ballot(pair["input"], solution, answers, votes))
        return ballots

    def write_submission(self, path: AnyPath, attempts: int = ATTEMPTS) -> None:
        """Write `submission` as JSON."""
        write_whole(path, json.dumps(self.submission(attempts)))

    def _tally(self, where: Question, key: bytes, identifier: int) -> Tally:
        """Return the votes for a grid; a new tally if there are none."""
        return self.tallies.setdefault(where, {}).setdefault(key, Tally(identifier))

    def _ranked(self, name: str, question: bytes) -> list[bytes]:
        """Return the answers to a test input, the best first."""
        answers = self.tallies.get((name, question), {})
        return sorted(answers, key=lambda key: answers[key].rank)
