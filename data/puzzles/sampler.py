"""The order of training examples: from a step to the examples of its batch.

An epoch visits every group once, in random order. A visit draws one puzzle of the group
and takes its examples, in random order, until the batch is full; the next batch begins
with the next visit. The epochs of a block form one stream of visits. The visits at the
end of a block that do not fill a batch are dropped.

A span of epochs is planned when a step needs it, and only the latest two are in memory.
Where all puzzles have one example, the first visit of a step is arithmetic. Otherwise
it depends on the sizes drawn before: spans are counted once, and two numbers are stored
for each.

Source: official `puzzle_dataset._sample_batch` and `_iter_train`.
"""

import bisect
import threading
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int64

from configs import UserError, ceil_div

SPAN = 1 << 16
"""Least visits planned at once (1 MB); more if an epoch is longer."""


class Index(NamedTuple):
    """First puzzle of each group and first example of each puzzle, and the totals."""

    groups: Int64[np.ndarray, " group_ends"]
    puzzles: Int64[np.ndarray, " puzzle_ends"] | None
    """None if every puzzle has one example, its own number."""

    @property
    def num_groups(self) -> int:
        """Number of groups: the visits of an epoch."""
        return len(self.groups) - 1


class Plan(NamedTuple):
    """The visits of a span."""

    visits: Int[np.ndarray, " visits"]
    """The puzzle of each visit."""

    ends: Int64[np.ndarray, " ends"] | None
    """Examples before each visit, then of all; None if every visit has one."""


class EpochSampler:
    """The examples of each batch; threads may share it.

    Visits have running numbers over all epochs, including the dropped ones.
    """

    def __init__(
        self,
        index: Index,
        batch_size: int,
        epochs: int,
        *,
        seed: int,
        first_step: int = 0,
        first_visit: int = 0,
    ):
        """Prepare batches from blocks of `epochs` epochs.

        Args:
            index: groups and puzzles.
            batch_size: examples of a batch.
            epochs: epochs of a block.
            seed: seed of the order.
            first_step: number of the first batch.
            first_visit: visit at which the first batch begins, or with the next block
                if what is left of the block does not fill it.
        """
        self._index, self._seed = index, seed
        self._batch_size, self._epochs = batch_size, epochs
        self._per_span = min(epochs, max(1, SPAN // index.num_groups))
        self._span_visits = self._per_span * index.num_groups
        self._block_visits = epochs * index.num_groups
        self._spans = ceil_div(epochs, self._per_span)  # of a block
        puzzles = index.puzzles
        self._sizes = None if puzzles is None else np.diff(puzzles).astype(np.int32)
        self._lock = threading.Lock()
        self._plans: dict[int, Plan] = {}
        self._counted = [(first_step, first_visit)]
        self._walks: dict[int, list[int]] = {}

    def examples(
        self, step: int
    ) -> tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]:
        """Return the examples of batch `step` and the puzzle of each.

        Raises:
            UserError: if a block of epochs does not fill a batch.
        """
        with self._lock:
            visits = self._visits(*self._fit(self._reached(step)))
        if self._index.puzzles is None:
            return visits, visits
        # The 1 and 2 part the seeds: (s, b) and (s, b, 0) would be the same seed.
        rng = np.random.default_rng((self._seed, 2, step))
        return _expand(visits, self._index.puzzles, self._batch_size, rng)

    def end(self, step: int) -> int:
        """Return the visit after the last one of batch `step`.

        For the step before the first one, this is `first_visit`.
        """
        with self._lock:
            return self._reached(step + 1)

    def _reached(self, step: int) -> int:
        """Return the visit after the last one of batch `step - 1`."""
        if self._sizes is None:
            return self._reached_flat(step)
        # `_counted` has the first batch of each span, and the visit reached before it.
        while self._counted[-1][0] < step:
            first, _ = self._counted[-1]
            reached = self._walk(len(self._counted) - 1)
            self._counted.append((first + len(reached) - 1, reached[-1]))
        at = bisect.bisect_right(self._counted, step, key=lambda item: item[0]) - 1
        first, visit = self._counted[at]
        return visit if step == first else self._walk(at)[step - first]

    def _reached_flat(self, step: int) -> int:
        """Return `_reached(step)` where every visit has one example: arithmetic."""
        (first_step, first_visit), size = self._counted[0], self._batch_size
        batches = step - first_step
        fitting = -first_visit % self._block_visits or self._block_visits
        fitting //= size
        if batches <= fitting:
            return first_visit + batches * size
        per_block = self._block_visits // size
        if not per_block:
            raise self._too_large()
        blocks, rest = divmod(batches - fitting - 1, per_block)
        block = first_visit // self._block_visits + 1 + blocks
        return block * self._block_visits + (rest + 1) * size

    def _walk(self, at: int) -> list[int]:
        """Return the visits reached before each batch of a span and the next batch."""
        if at not in self._walks:
            reached = [self._counted[at][1]]
            span, _ = self._locate(reached[0])
            while self._locate(reached[-1])[0] == span:
                reached.append(self._fit(reached[-1])[1])
            self._walks = {at: reached}
        return self._walks[at]

    def _fit(self, visit: int) -> tuple[int, int]:
        """Return the visits at which the next batch begins and ends.

        It begins at `visit` or, if the rest of the block is too small, with the next
        block.
        """
        if (end := self._end(visit)) is not None:
            return visit, end
        begin = visit + -visit % self._block_visits
        if begin == visit or (end := self._end(begin)) is None:
            raise self._too_large()
        return begin, end

    def _end(self, begin: int) -> int | None:
        """Return the end of a batch that begins at a visit; None if the block ends."""
        if self._sizes is None:
            left = self._block_visits - begin % self._block_visits
            return begin + self._batch_size if self._batch_size <= left else None
        missing, (span, offset) = self._batch_size, self._locate(begin)
        while True:
            ends = self._plan(span).ends
            assert ends is not None
            stop = int(ends.searchsorted(ends[offset] + missing))
            if stop < len(ends):
                return begin + stop - offset
            missing -= int(ends[-1] - ends[offset])
            begin += len(ends) - 1 - offset
            span, offset = span + 1, 0
            if span % self._spans == 0:
                return None

    def _locate(self, visit: int) -> tuple[int, int]:
        """Return the span of a visit and its number there."""
        block, visit = divmod(visit, self._block_visits)
        span, visit = divmod(visit, self._span_visits)
        return block * self._spans + span, visit

    def _visits(self, begin: int, end: int) -> Int[np.ndarray, " visits"]:
        """Return the puzzles of the visits of a batch."""
        parts = []
        while begin < end:
            span, offset = self._locate(begin)
            parts.append(self._plan(span).visits[offset : offset + end - begin])
            begin += len(parts[-1])
        return np.concatenate(parts)

    def _plan(self, span: int) -> Plan:
        """Return the plan of a span, made now unless it is one of the latest two."""
        if span not in self._plans:
            epochs = min(
                self._per_span, self._epochs - span % self._spans * self._per_span
            )
            rng = np.random.default_rng((self._seed, 1, span))
            visits, ends = draw_epochs(self._index.groups, epochs, rng), None
            if self._sizes is not None:
                ends = np.zeros(len(visits) + 1, np.int64)
                np.cumsum(self._sizes[visits], out=ends[1:])
            while len(self._plans) > 1:
                del self._plans[next(iter(self._plans))]
            self._plans[span] = Plan(visits, ends)
        return self._plans[span]

    def _too_large(self) -> UserError:
        """Return the error of a block of epochs that does not fill a batch."""
        return UserError(
            f"A batch must not be larger than the data of a block: got "
            f"batch_size={self._batch_size:,} for {self._epochs:,} epochs of "
            f"{self._index.num_groups:,} groups. Use a smaller batch or more epochs "
            "per block."
        )


def draw_epochs(
    groups: Int64[np.ndarray, " group_ends"], epochs: int, rng: np.random.Generator
) -> Int[np.ndarray, " visits"]:
    """Draw the puzzle of every visit of `epochs` epochs."""
    order = np.tile(np.arange(len(groups) - 1, dtype=np.int32), (epochs, 1))
    order = rng.permuted(order, axis=1, out=order).reshape(-1)
    if groups[-1] == len(groups) - 1:
        return order  # one puzzle a group
    all_sizes = np.diff(groups)
    visits = np.empty(len(order), np.int32 if groups[-1] < 1 << 31 else np.int64)
    for start in range(0, len(order), SPAN):
        at = slice(start, start + SPAN)
        first, sizes = groups[order[at]], all_sizes[order[at]]
        # Twice as fast as whole random numbers, and even to one part in 2**53 / size.
        visits[at] = first + (rng.random(len(sizes)) * sizes).astype(np.int64)
    return visits


def _expand(
    visits: Int[np.ndarray, " visits"],
    puzzles: Int64[np.ndarray, " puzzle_ends"],
    batch_size: int,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]:
    """Return the first `batch_size` examples of the visits, and their puzzles.

    The examples of a visit are in random order.
    """
    first = puzzles[visits]
    sizes = puzzles[visits + 1] - first
    visit = np.repeat(np.arange(len(visits)), sizes)
    shuffled = np.lexsort((rng.random(len(visit)), visit))
    within = shuffled - np.repeat(np.cumsum(sizes) - sizes, sizes)
    examples = np.repeat(first, sizes) + within
    return examples[:batch_size], visits[visit][:batch_size]
