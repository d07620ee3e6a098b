"""Which examples stand in which training batch, as a function of the step.

An epoch visits every group once, in random order. A visit draws one puzzle of the group
and takes all its examples, in random order, as far as the batch has room; the next
batch starts with the next visit. The epochs of a block follow on each other without a
break, and what is left at its end, being less than a batch, is dropped.

Epochs are planned when they are reached, a span of a few at a time, and only the latest
spans are kept: memory is that of one epoch, whatever the run's length. Where all
puzzles have one example, the place of a step is arithmetic. Elsewhere it depends on the
sizes drawn before, so that the spans before it are counted once, and of each two
numbers are kept.

Source: official `puzzle_dataset._sample_batch` and `_iter_train`.
"""

import bisect
import threading
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int64

from configs import Piecewise, UserError

SPAN = 1 << 16
"""Visits planned at once, but never less than an epoch: 1 MB at most, or one epoch."""


class Index(NamedTuple):
    """Where groups and puzzles begin (and the last ends), as in the files."""

    groups: Int64[np.ndarray, " group_ends"]
    puzzles: Int64[np.ndarray, " puzzle_ends"] | None
    """None if every puzzle has one example, its own number."""

    @property
    def num_groups(self) -> int:
        """Visits of an epoch."""
        return len(self.groups) - 1


class EpochPlan(NamedTuple):
    """The visits of a span of epochs.

    The last three say how examples fall into batches; they are empty if every visit has
    one, where that is arithmetic.
    """

    visits: Int[np.ndarray, " visits"]
    """The puzzle of each visit."""

    ends: Int64[np.ndarray, " ends"]
    """Examples of the visits before each visit, and of all."""

    starts: Int64[np.ndarray, " batches"]
    """First visits of the batches that begin here."""

    fill: int
    """Examples in the last batch, if it is not full; else 0."""

    def take(self, first: int, examples: int) -> tuple[Int[np.ndarray, " taken"], int]:
        """The visits from `first` on that hold so many examples, and how many it is."""
        if not len(self.ends):
            visits = self.visits[first : first + examples]
            return visits, len(visits)
        begin = int(self.ends[first])
        stop = min(int(self.ends.searchsorted(begin + examples)), len(self.visits))
        return self.visits[first:stop], int(self.ends[stop]) - begin


class EpochSampler:
    """The examples of any step; threads may share it."""

    def __init__(self, index: Index, sizes: Piecewise[int], epochs: int, *, seed: int):
        """Prepare for batches of these sizes from blocks of `epochs` epochs."""
        self._index, self._seed = index, seed
        self._batches, self._epochs = sizes, epochs
        self._per_span = min(epochs, max(1, SPAN // index.num_groups))
        self._spans = -(-epochs // self._per_span)  # of a block
        puzzles = index.puzzles
        self._sizes = None if puzzles is None else np.diff(puzzles).astype(np.int32)
        self._lock = threading.Lock()
        self._plans: dict[int, EpochPlan] = {}
        # Of span i: the first batch that begins in it, and the examples that the batch
        # begun before it already has.
        self._firsts, self._fills = [0], [0]

    def examples(
        self, step: int
    ) -> tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]:
        """The examples of batch `step` and the puzzle that each belongs to.

        Raises:
            UserError: if a block of epochs does not fill a batch.
        """
        with self._lock:
            visits = self._visits(*self._locate(step), self._batches.at(step))
        if self._index.puzzles is None:
            return visits, visits
        # The 1 and 2 part the seeds: (s, b) and (s, b, 0) would be the same seed.
        rng = np.random.default_rng((self._seed, 2, step))
        size = self._batches.at(step)
        return _expand(visits, self._index.puzzles, size, rng)

    def _locate(self, step: int) -> tuple[int, int]:
        """The span in which batch `step` begins, and its first visit there."""
        if self._index.puzzles is None:
            block, begin = self._begin(step)
            per_span = self._index.num_groups * self._per_span
            span, visit = divmod(begin, per_span)
            return block * self._spans + span, visit
        while self._firsts[-1] - (self._fills[-1] > 0) <= step:
            self._count()
        span = bisect.bisect_right(self._firsts, step) - 1
        return span, int(self._plan(span).starts[step - self._firsts[span]])

    def _begin(self, step: int) -> tuple[int, int]:
        """The block of batch `step`, and the visits before it there: arithmetic.

        Through the sizes up to the step's; what is left of a block when a batch does
        not fit into it is dropped.
        """
        visits = self._index.num_groups * self._epochs
        block, begin = 0, 0
        ends = (*self._batches.firsts[1:], step)
        for first, end, size in zip(
            self._batches.firsts, ends, self._batches.values, strict=True
        ):
            if first > step:
                break
            count = min(end, step) - first
            more = count - (visits - begin) // size  # than fit into this block
            if more <= 0:
                begin += count * size
                continue
            whole = self._at_least_one(visits // size, size)
            blocks = -(-more // whole)
            block, begin = block + blocks, (more - (blocks - 1) * whole) * size
        size = self._batches.at(step)
        self._at_least_one(visits // size, size)
        return (block, begin) if begin + size <= visits else (block + 1, 0)

    def _count(self) -> None:
        """Count the batches of the next span."""
        span = len(self._firsts) - 1
        plan = self._plan(span)
        first, fill = self._firsts[-1] + len(plan.starts), plan.fill
        if (span + 1) % self._spans == 0:
            first, fill = first - (fill > 0), 0
            batches = first - self._firsts[span + 1 - self._spans]
            self._at_least_one(batches, self._batches.at(first))
            # The batch that is dropped may have begun some spans ago.
            for i in range(span, -1, -1):
                if self._firsts[i] <= first:
                    break
                self._firsts[i] = first
        self._firsts.append(first)
        self._fills.append(fill)

    def _visits(
        self, span: int, visit: int, examples: int
    ) -> Int[np.ndarray, " visits"]:
        """The visits that fill a batch, from this one on."""
        parts, missing = [], examples
        while missing > 0:
            part, taken = self._plan(span).take(visit, missing)
            parts.append(part)
            span, visit, missing = span + 1, 0, missing - taken
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _plan(self, span: int) -> EpochPlan:
        """The plan of a span, made now unless it is one of the latest two."""
        if span not in self._plans:
            number = span % self._spans
            epochs = min(self._per_span, self._epochs - number * self._per_span)
            rng = np.random.default_rng((self._seed, 1, span))
            visits = draw_epochs(self._index.groups, epochs, rng)
            plan = EpochPlan(visits, np.empty(0, np.int64), np.empty(0, np.int64), 0)
            if self._sizes is not None:
                ends = np.cumsum(self._sizes[visits], dtype=np.int64)
                ends = np.concatenate([np.zeros(1, np.int64), ends])
                first, fill = self._firsts[span], self._fills[span]
                plan = EpochPlan(visits, ends, *_cut(ends, fill, first, self._batches))
            while len(self._plans) > 1:
                del self._plans[next(iter(self._plans))]
            self._plans[span] = plan
        return self._plans[span]

    def _at_least_one(self, batches: int, size: int) -> int:
        """The number of batches, unless a block has none."""
        if batches < 1:
            raise UserError(
                f"A batch must not be larger than the data of a block: got "
                f"batch_size={size:,} for {self._epochs:,} epochs of "
                f"{self._index.num_groups:,} groups. Use a smaller batch or more "
                "epochs per block."
            )
        return batches


def draw_epochs(
    groups: Int64[np.ndarray, " group_ends"], epochs: int, rng: np.random.Generator
) -> Int[np.ndarray, " visits"]:
    """The puzzle of every visit of some epochs."""
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


def _cut(
    ends: Int64[np.ndarray, " ends"], fill: int, first: int, sizes: Piecewise[int]
) -> tuple[Int64[np.ndarray, " batches"], int]:
    """First visits of the batches that begin in a span, and what the last one has.

    The visit that fills a batch ends it, and its examples beyond are not used.

    Args:
        ends: examples before each visit, and in all.
        fill: examples of the batch that began before the span; 0 if none did.
        first: number of the first batch that begins in the span.
        sizes: examples of each batch.
    """
    starts, begin = ([], -fill) if fill else ([0], 0)
    number = first - (fill > 0)
    while (stop := int(ends.searchsorted(begin + sizes.at(number)))) < len(ends):
        if stop == len(ends) - 1:
            return np.array(starts, np.int64), 0
        starts.append(stop)
        begin, number = int(ends[stop]), number + 1
    return np.array(starts, np.int64), int(ends[-1]) - begin


def _expand(
    visits: Int[np.ndarray, " visits"],
    puzzles: Int64[np.ndarray, " puzzle_ends"],
    batch_size: int,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]:
    """All examples of the visits in random order, cut, and their puzzles."""
    first = puzzles[visits]
    sizes = puzzles[visits + 1] - first
    visit = np.repeat(np.arange(len(visits)), sizes)
    shuffled = np.lexsort((rng.random(len(visit)), visit))
    within = shuffled - np.repeat(np.cumsum(sizes) - sizes, sizes)
    examples = np.repeat(first, sizes) + within
    return examples[:batch_size], visits[visit][:batch_size]
