"""Batches of puzzles from datasets on disk, as pure functions of the step.

The file format is in `metadata.py` and `reading.py`, the merging of datasets in
`store.py`, and the order of training examples in `sampler.py`.
"""

import copy
import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from configs import UserError, ceil_div, require
from data.batches import rows_of
from data.folder import fingerprint, visible
from data.puzzles.kind import Kind
from data.puzzles.kinds import kind_of
from data.puzzles.metadata import Metadata, recorded_hash
from data.puzzles.sampler import EpochSampler, Index
from data.puzzles.store import PuzzleStore

__all__ = ["IGNORE", "Metadata", "Puzzle", "PuzzleDataset"]

IGNORE = -100
"""Label of a cell that is not scored."""


class Puzzle(NamedTuple):
    """Puzzles with their solutions: NumPy arrays here, JAX arrays elsewhere.

    Not generic in the array type, since beartype 0.23 rejects generic named tuples.
    """

    inputs: Int[Any, "*batch seq"]
    labels: Int[Any, "*batch seq"]
    puzzle_id: Int[Any, " *batch"]


class PuzzleDataset:
    """A split of one dataset, or of several merged.

    Merged datasets must agree on everything but their counts. Every epoch mixes their
    groups (officially, one dataset follows the other); see `PuzzleStore` for their
    identifiers.

    Attributes:
        metadata: metadata of the merged dataset.
        num_examples: examples of all datasets.
        batch_size: examples of a batch, over all processes.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        split: str,
        *,
        batch_size: int,
        seed: int = 0,
        epochs_per_block: int = 1,
        rows: Integer[np.ndarray, " rows"] | None = None,
        hints: float = 0.0,
        fresh: bool = False,
        in_rounds: bool = False,
    ):
        """Open and check the datasets.

        Args:
            paths: dataset directories.
            split: `train` or `test`.
            batch_size: examples of a batch, over all processes.
            seed: seed of the order of the training examples.
            epochs_per_block: epochs joined before a partial batch is dropped.
            rows: the rows of each batch to load, in order; None loads all.
            hints: share of the training examples in which a random part of the cells
                is filled in from the solution.
            fresh: show each training example under a random symmetry at every visit.
            in_rounds: order test examples as the first of every group (of every ARC
                task), then the second of every group; False for the file's order.

        Raises:
            UserError: if an argument is out of range or a dataset is not usable.
        """
        if isinstance(paths, str) or not paths:
            raise UserError(
                f"`paths` must be a list of dataset directories: got {paths!r}. "
                "Give at least one."
            )
        _require_least("batch_size", batch_size, 1)
        _require_least("epochs_per_block", epochs_per_block, 1)
        _require_least("seed", seed, 0)
        self.batch_size, self._rows = batch_size, rows_of(batch_size, rows)
        self._seed, self._hints, self._fresh = seed, hints, fresh
        self._epochs = epochs_per_block
        self._first_step = 0
        self._store = PuzzleStore(paths, split)
        self.metadata = self._store.metadata
        require(
            not hints or self.kind.hints,
            "`hints` must be 0 for puzzles without open cells, such as ARC: got "
            f"{hints}. Omit it.",
        )
        require(
            not fresh or self.kind.symmetries is not None,
            "`augment` must be `stored` for puzzles of a kind without symmetries, such "
            "as ARC: got `fresh`. Omit it.",
        )
        self.num_examples = len(self._store)
        index, count = self._store.index, self.num_examples
        self._order = rounds(index, count) if in_rounds else None
        self._sampler = EpochSampler(
            self._store.index, batch_size, epochs_per_block, seed=seed
        )

    def resized(
        self,
        first_step: int,
        batch_size: int,
        rows: Integer[np.ndarray, " rows"] | None = None,
    ) -> "PuzzleDataset":
        """Return the same order of examples in batches of another size.

        Args:
            first_step: the first training batch of the new size; it begins where the
                batch before it ends in this dataset.
            batch_size: examples of a batch, over all processes.
            rows: the rows of each batch to load, in order; None loads all.

        Raises:
            UserError: if an argument is out of range.
        """
        _require_least("first_step", first_step, self._first_step)
        _require_least("batch_size", batch_size, 1)
        other = copy.copy(self)
        other.batch_size, other._rows = batch_size, rows_of(batch_size, rows)
        other._first_step = first_step
        other._sampler = EpochSampler(
            self._store.index,
            batch_size,
            self._epochs,
            seed=self._seed,
            first_step=first_step,
            first_visit=self._sampler.end(first_step - 1),
        )
        return other

    @cached_property
    def kind(self) -> Kind:
        """The kind of puzzle, which can draw and check answers."""
        metadata = self.metadata
        return kind_of(metadata.kind, metadata.seq_len, metadata.vocab_size)

    @cached_property
    def content_hash(self) -> str:
        """Hash of the split's content; of the hashes in order for merged datasets.

        Recorded in `dataset.json`. Official datasets have none: there it is a
        `fingerprint` of the files, which detects another build but not every changed
        byte.
        """
        parts = [
            recorded_hash(folder) or fingerprint(visible(folder, "*.npy"))
            for folder in self._store.folders
        ]
        if len(parts) == 1:
            return parts[0]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def examples_in(self, epochs: int | float) -> float:
        """Return the examples that `epochs` epochs use on average.

        Source: `total_steps` of the official `pretrain.py`.
        """
        return epochs * self.metadata.total_groups * self.metadata.mean_puzzle_examples

    def batch(self, step: int) -> Puzzle:
        """Return this process's rows of training batch `step`, counted from 0.

        A pure function of seed and step; thread-safe.

        Raises:
            UserError: if `step` is below the first one, the batch is larger than a
                block of epochs, or a token is out of range.
        """
        _require_least("step", step, self._first_step)
        examples, puzzles = self._sampler.examples(step)
        rows = self._rows
        puzzle = self._load(examples[rows], puzzles[rows])
        if self._hints:
            # The 3 separates this seed from the sampler's.
            rng = np.random.default_rng((self._seed, 3, step))
            easier, part = rng.random((2, len(examples)))
            share = np.where(easier < self._hints, part, 0.0)[rows]
            cells = rng.random((len(examples), puzzle.inputs.shape[1]))[rows]
            given = (cells < share[:, None]) & (puzzle.labels != IGNORE)
            puzzle.inputs[given] = puzzle.labels[given]
        if self._fresh:
            self._turn(puzzle, step)
        return puzzle

    def _turn(self, puzzle: Puzzle, step: int) -> None:
        """Turn each row of training batch `step` by a random symmetry, in place."""
        assert self.kind.symmetries is not None
        # The 4 keeps this seed apart: the sampler and the hints use others.
        rng = np.random.default_rng((self._seed, 4, step))
        drawn = list(islice(self.kind.symmetries(rng), self.batch_size))
        for row, number in enumerate(self._rows):
            symmetry, labels = drawn[number], puzzle.labels[row]
            scored = labels != IGNORE
            puzzle.inputs[row] = symmetry.apply(puzzle.inputs[row])
            turned = symmetry.apply(np.where(scored, labels, 0))
            puzzle.labels[row] = np.where(scored[symmetry.cells], turned, IGNORE)

    def places(self, tests: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        """Return the places in the file of test examples, given by their order."""
        return tests if self._order is None else self._order[tests]

    def num_test_batches(self, limit: int | None = None) -> int:
        """Return the number of batches of the first `limit` examples (None: all)."""
        return ceil_div(self._count(limit), self.batch_size)

    def test_batch(self, index: int, limit: int | None = None) -> Puzzle:
        """Return this process's rows of batch `index` of the examples in order.

        Rows after the last example are padding: the pad token, `IGNORE` and the blank
        identifier.

        Raises:
            UserError: if `index`, `limit` or a token is out of range.
        """
        total = self.num_test_batches(limit)
        if not 0 <= index < total:
            raise UserError(
                f"`index` must be in 0 .. {total - 1}: got {index}. "
                "There are `num_test_batches(limit)` batches."
            )
        examples = index * self.batch_size + self._rows
        padding = examples >= self._count(limit)
        examples[padding] = 0
        examples = self.places(examples)
        starts = self._store.index.puzzles
        puzzles = examples
        if starts is not None:
            puzzles = starts.searchsorted(examples, side="right") - 1
        puzzle = self._load(examples, puzzles)
        puzzle.inputs[padding] = self.metadata.pad_id
        puzzle.labels[padding] = IGNORE
        puzzle.puzzle_id[padding] = self.metadata.blank_identifier_id
        return puzzle

    def _count(self, limit: int | None) -> int:
        """Return the number of examples to evaluate."""
        if limit is None:
            return self.num_examples
        _require_least("limit", limit, 1)
        return min(limit, self.num_examples)

    def _load(
        self, examples: Int[np.ndarray, " rows"], puzzles: Int[np.ndarray, " rows"]
    ) -> Puzzle:
        """Return the examples, with unscored labels as `IGNORE`."""
        inputs, labels, identifiers = self._store.gather(examples, puzzles)
        if (ignored := self.metadata.ignore_label_id) is not None:
            # Ten times as fast as assigning by a mask; an overflow wraps back.
            change = np.int64(IGNORE - ignored).astype(np.int32)
            labels += (labels == ignored) * change
        return Puzzle(inputs, labels, identifiers)


def rounds(index: Index, examples: int) -> Int[np.ndarray, " examples"]:
    """Return the first example of every group, then the second of every group, ..."""
    firsts = index.groups if index.puzzles is None else index.puzzles[index.groups]
    sizes = np.diff(firsts)
    return np.argsort(
        np.arange(examples) - np.repeat(firsts[:-1], sizes), kind="stable"
    )


def _require_least(name: str, value: int, least: int) -> None:
    """Raise `UserError` unless `value` is at least `least`."""
    if value < least:
        raise UserError(
            f"`{name}` must be at least {least}: got {value}. Pass {least} or more."
        )
