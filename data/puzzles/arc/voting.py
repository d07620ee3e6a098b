"""Voting: the answers of a model to all images of an ARC task make one answer.

A model answers every augmented image of a test input. Each answer is a vote, once the
augmentation is undone, for a grid. Of the grids with votes that with the most comes
first, and of equally many that with the highest mean of sigmoid(q_halt).

    votes = Votes.of_datasets(["datasets/arc1concept-aug-1000"])
    votes.add(identifiers, inputs, predictions, q_halt_logits)  # batch by batch
    votes.metrics()  # {"ARC/pass@1": 0.4, "ARC/pass@2": 0.45, ...}
    votes.submission()  # {"007bbfb7": [{"attempt_1": [[0, 7], [7, 7]], ...}]}

Votes of several processes, or of several evaluations, are merged: `votes.merge` takes
the `tallies` of others. Nothing depends on the order in which votes came: sums are
exact, and grids of equal rank stand in the order of the images.

Source: official `evaluators/arc.py`, where equal ranks stand in the order of arrival.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from configs import require
from data.puzzles.arc.grid import crop, parse_image, undo
from data.puzzles.arc.tasks import as_grid, read_json
from data.remote import local_dataset

KS = (1, 2, 5, 10, 100, 1000)
"""Numbers of answers among which the right one may be."""

ATTEMPTS = 2
"""Answers to a test input in a submission."""

PLACEHOLDER = [[0, 0], [0, 0]]
"""What stands in the competition's sample of a submission."""

CHUNK = 4096
"""Answers whose grids are cropped at once."""

Question = tuple[str, bytes]
"""A task and the key of a test input."""

Grid = list[list[int]]


def grid_key(grid: np.ndarray) -> bytes:
    """A grid as bytes: its shape, then its colours."""
    return bytes(grid.shape) + grid.astype(np.uint8).tobytes()


def grid_of(key: bytes) -> Grid:
    """The grid of a key, as JSON has it."""
    rows, columns = key[:2]
    return np.frombuffer(key, np.uint8, offset=2).reshape(rows, columns).tolist()


@dataclass
class Tally:
    """The votes for a grid."""

    first: int
    """Least identifier of the images that it was the answer to."""

    qs: list[float] = field(default_factory=list)
    """sigmoid(q_halt) of each vote."""

    @property
    def rank(self) -> tuple[int, float, int]:
        """What grids are sorted by: the lowest comes first."""
        return -len(self.qs), -math.fsum(self.qs) / len(self.qs), self.first


Tallies = dict[Question, dict[bytes, Tally]]
"""Task and test input -> answer -> its votes."""


class Votes:
    """The answers to the test inputs of ARC tasks, counted.

    Attributes:
        tasks: name -> the task with its solutions, as `test_puzzles.json` has it.
        tallies: the votes so far, plain data that can be pickled.
    """

    def __init__(
        self,
        identifiers: Sequence[str],
        tasks: Mapping[str, Any],
        *,
        blank_identifier: int = 0,
    ):
        """No votes yet.

        Args:
            identifiers: the name of each puzzle, as `identifiers.json` has them.
            tasks: what `test_puzzles.json` holds.
            blank_identifier: identifier of rows that only fill a batch.
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
        """No votes yet for the test tasks of a dataset, or of several merged.

        The identifiers are those of `PuzzleDataset`: each dataset's are moved up by the
        number of those before it.

        Raises:
            UserError: if `identifiers.json` or `test_puzzles.json` is missing.
        """
        identifiers: list[str] = []
        tasks: dict[str, Any] = {}
        for path in map(local_dataset, paths):
            for name in ("identifiers.json", "test_puzzles.json"):
                require(
                    (path / name).is_file(),
                    f"Voting needs `{name}`, which ARC datasets have: there is none in "
                    f"{path}. Build the dataset with `python -m data.prepare arc`.",
                )
            identifiers += read_json(path / "identifiers.json")
            tasks |= read_json(path / "test_puzzles.json")
        return cls(identifiers, tasks)

    def add(
        self,
        identifiers: Integer[np.ndarray, " rows"],
        inputs: Integer[np.ndarray, "rows 900"],
        predictions: Integer[np.ndarray, "rows 900"],
        q_halt_logits: Float[np.ndarray, " rows"],
    ) -> None:
        """Count the answers to some examples; rows that only fill a batch do not count.

        Args:
            identifiers: of the puzzle of each row.
            inputs: tokens of the test inputs, augmented.
            predictions: tokens of the answers.
            q_halt_logits: the model's confidence in each.

        Raises:
            UserError: if an identifier is none of the dataset.
        """
        real = np.flatnonzero(identifiers != self._blank)
        ids, names = identifiers[real], len(self._identifiers)
        wrong = ids[(ids < 0) | (ids >= names)].tolist()
        require(
            not wrong,
            f"Identifiers must lie in 0 .. {names - 1}: got {wrong[:1]}. Vote on the "
            "dataset that was evaluated.",
        )
        for start in range(0, len(real), CHUNK):
            rows = real[start : start + CHUNK]
            q = np.exp(-np.logaddexp(0, -q_halt_logits[rows].astype(np.float64)))
            grids = crop(inputs[rows]), crop(predictions[rows])
            for own in zip(identifiers[rows].tolist(), *grids, q.tolist(), strict=True):
                self._count(*own)

    def _count(
        self, identifier: int, question: np.ndarray, answer: np.ndarray, q: float
    ) -> None:
        """Count one answer, both grids being images."""
        name, symmetry, colors = parse_image(self._identifiers[identifier])
        where = name, grid_key(undo(question, symmetry, colors))
        tally = self._tally(where, grid_key(undo(answer, symmetry, colors)), identifier)
        tally.first = min(tally.first, identifier)
        tally.qs.append(q)

    def merge(self, tallies: Tallies) -> None:
        """Count the `tallies` of other votes too: of another process or evaluation."""
        for where, answers in tallies.items():
            for key, theirs in answers.items():
                ours = self._tally(where, key, theirs.first)
                ours.first = min(ours.first, theirs.first)
                ours.qs += theirs.qs

    def metrics(self, ks: Sequence[int] = KS) -> dict[str, float]:
        """`ARC/pass@K` for each K: the mean share of a task's test inputs solved.

        A test input is solved if its solution is among the first K answers; without an
        answer it is not.
        """
        solved = dict.fromkeys(ks, 0.0)
        for name, questions in self._questions.items():
            found = dict.fromkeys(ks, 0)
            for key, pair in questions:
                right = grid_key(as_grid(pair["output"]))
                ranked = self._ranked(name, key)
                for k in ks:
                    found[k] += right in ranked[:k]
            for k in ks:
                solved[k] += found[k] / len(questions)
        return {f"ARC/pass@{k}": solved[k] / len(self._questions) for k in ks}

    def submission(self, attempts: int = ATTEMPTS) -> dict[str, list[dict[str, Grid]]]:
        """What the competition asks for: the first answers to each test input.

        Where there are fewer, the first fills up. A test input without any answer gets
        the competition's placeholder (officially it is left out, so that the answers
        to the inputs after it move up).
        """
        submission = {}
        for name, questions in self._questions.items():
            submission[name] = []
            for key, _ in questions:
                grids = [grid_of(own) for own in self._ranked(name, key)[:attempts]]
                grids += (grids[:1] or [PLACEHOLDER]) * (attempts - len(grids))
                named = {f"attempt_{i}": grid for i, grid in enumerate(grids, 1)}
                submission[name].append(named)
        return submission

    def write_submission(self, path: Path, attempts: int = ATTEMPTS) -> None:
        """Write `submission` as JSON."""
        path.write_text(json.dumps(self.submission(attempts)), encoding="utf-8")

    def _tally(self, where: Question, key: bytes, identifier: int) -> Tally:
        """The votes for a grid, a new tally if there are none."""
        return self.tallies.setdefault(where, {}).setdefault(key, Tally(identifier))

    def _ranked(self, name: str, question: bytes) -> list[bytes]:
        """The answers to a test input, the best first."""
        answers = self.tallies.get((name, question), {})
        return sorted(answers, key=lambda key: answers[key].rank)
