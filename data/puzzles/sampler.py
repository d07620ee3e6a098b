"""Which examples stand in which training batch: the plan of one block of epochs.

An epoch visits every group once, in random order. A visit draws one puzzle of the group
and takes all its examples, in random order, as far as the batch has room; the next
batch starts with the next visit. The epochs of a block follow on each other without a
break, and what is left at its end, being less than a batch, is dropped.

Source: official `puzzle_dataset._sample_batch` and `_iter_train`.
"""

import bisect
import threading
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from configs import UserError


class Index(NamedTuple):
    """Where groups and puzzles begin (and the last ends), as in the files."""

    groups: Int[np.ndarray, " groups+1"]
    puzzles: Int[np.ndarray, " puzzles+1"]

    def is_flat(self) -> bool:
        """Whether every puzzle has one example, so that batches have equal visits."""
        return int(self.puzzles[-1]) == len(self.puzzles) - 1


class EpochPlan(NamedTuple):
    """The visits of a block, in order, and the first visit of each batch."""

    visits: Int[np.ndarray, " visits"]
    starts: Int[np.ndarray, " batches+1"]

    def __len__(self) -> int:
        """Return the number of full batches of the block."""
        return len(self.starts) - 1


class EpochSampler:
    """The examples of any step; keeps the latest plans, and how long others were."""

    def __init__(self, index: Index, batch_size: int, epochs: int, *, seed: int):
        """Prepare for batches of `batch_size` from blocks of `epochs` epochs."""
        self._index, self._seed = index, seed
        self._batch_size, self._epochs = batch_size, epochs
        self._lock = threading.Lock()
        self._plans: dict[int, EpochPlan] = {}
        self._firsts = [0]  # first step of blocks 0, 1, ..., as far as counted

    def examples(
        self, step: int
    ) -> tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]:
        """Return the examples of batch `step` and the puzzle each belongs to.

        Raises:
            UserError: if a block of epochs does not fill a batch.
        """
        plan, block, batch = self._locate(step)
        visits = plan.visits[plan.starts[batch] : plan.starts[batch + 1]]
        if self._index.is_flat():
            return visits, visits
        # The 1 and 2 part the seeds: (s, b) and (s, b, 0) would be the same seed.
        rng = np.random.default_rng((self._seed, 2, block, batch))
        return _expand(visits, self._index, self._batch_size, rng)

    def _locate(self, step: int) -> tuple[EpochPlan, int, int]:
        """Return the plan of the block of `step`, the block, and the batch within.

        Blocks before it must be planned once to be counted, unless all puzzles have
        one example, when blocks are equally long.
        """
        with self._lock:
            if self._index.is_flat():
                visits = (len(self._index.groups) - 1) * self._epochs
                batches = self._at_least_one(visits // self._batch_size)
                block, batch = divmod(step, batches)
                return self._plan(block), block, batch
            while self._firsts[-1] <= step:
                plan = self._plan(len(self._firsts) - 1)
                self._firsts.append(self._firsts[-1] + self._at_least_one(len(plan)))
            block = bisect.bisect_right(self._firsts, step) - 1
            return self._plan(block), block, step - self._firsts[block]

    def _plan(self, block: int) -> EpochPlan:
        """Return the plan of a block, made now unless it is one of the latest two."""
        if block not in self._plans:
            rng = np.random.default_rng((self._seed, 1, block))
            plan = make_plan(self._index, self._batch_size, self._epochs, rng)
            while len(self._plans) > 1:
                del self._plans[next(iter(self._plans))]
            self._plans[block] = plan
        return self._plans[block]

    def _at_least_one(self, batches: int) -> int:
        """Return `batches` unless a block has none."""
        if batches < 1:
            raise UserError(
                f"A block of epochs must fill a batch: {self._epochs} epochs of "
                f"{len(self._index.groups) - 1} groups have too few examples for "
                f"{self._batch_size}. Use a smaller batch or more epochs per block."
            )
        return batches


def make_plan(
    index: Index, batch_size: int, epochs: int, rng: np.random.Generator
) -> EpochPlan:
    """Return the plan of a block: the puzzle of every visit, cut into batches."""
    groups = np.arange(len(index.groups) - 1, dtype=np.int32)
    order = np.broadcast_to(groups, (epochs, len(groups)))
    order = rng.permuted(order, axis=1).reshape(-1)
    visits = rng.integers(index.groups[order], index.groups[order + 1], dtype=np.int64)
    if index.is_flat():
        return EpochPlan(visits, np.arange(0, len(visits) + 1, batch_size))
    return EpochPlan(visits, _cut(np.diff(index.puzzles)[visits], batch_size))


def _expand(
    visits: Int[np.ndarray, " visits"],
    index: Index,
    batch_size: int,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]:
    """Return all examples of the visits in random order, cut, and their puzzles."""
    first = index.puzzles[visits]
    sizes = index.puzzles[visits + 1] - first
    visit = np.repeat(np.arange(len(visits)), sizes)
    shuffled = np.lexsort((rng.random(len(visit)), visit))
    within = shuffled - np.repeat(np.cumsum(sizes) - sizes, sizes)
    examples = np.repeat(first, sizes) + within
    return examples[:batch_size], visits[visit][:batch_size]


def _cut(sizes: Int[np.ndarray, " visits"], batch_size: int) -> np.ndarray:
    """Return the first visit of each full batch, and the first one after the last.

    The visit that fills a batch ends it, and its examples beyond are not used.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    starts, done = [0], 0
    while (last := int(ends.searchsorted(done + batch_size))) < len(ends):
        starts.append(last + 1)
        done = int(ends[last])
    return np.array(starts)
