import hashlib
import itertools
import time
import tracemalloc

import numpy as np
import pytest

from configs import UserError
from data.puzzles.dataset import PuzzleDataset
from data.puzzles.sampler import EpochSampler, Index

FLAT = [[1] * 4] * 10  # ten groups of four puzzles of one example
STAY = [
    [29, 8, 19, 24, 6, 2],
    [32, 24, 31, 38, 13, 19],
    [11, 2, 1, 0, 5, 4],
    [3, 4, 5, 3, 9, 6],
]
MIXED = [[3, 1], [2], [5, 4, 1], [1], [7]]


def load(path, *, batch_size=4, **settings):
    return PuzzleDataset([path], "train", batch_size=batch_size, **settings)


def test_each_epoch_visits_every_group_once(write_dataset):
    dataset = load(write_dataset(FLAT), batch_size=5, epochs_per_block=3)
    inputs = np.concatenate([dataset.batch(step).inputs for step in range(12)])
    epochs = inputs[:, 2].reshape(6, 10)
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_puzzles_of_a_group_are_drawn_evenly(write_dataset):
    dataset = load(write_dataset(FLAT), batch_size=10, epochs_per_block=100)
    puzzles = np.concatenate([dataset.batch(step).inputs[:, 1] for step in range(400)])
    counts = np.bincount(puzzles, minlength=40)
    assert counts.sum() == 4000
    assert abs(counts - 100).max() < 45  # 5 standard deviations


def test_epochs_are_strung_together_and_the_rest_of_a_block_dropped(write_dataset):
    # Blocks of 2 epochs are 20 visits, 2 batches of 8; the last 4 visits are lost.
    dataset = load(write_dataset(FLAT), batch_size=8, epochs_per_block=2)
    for block in range(5):
        steps = (2 * block, 2 * block + 1)
        groups = np.concatenate([dataset.batch(step).inputs[:, 2] for step in steps])
        assert sorted(groups[:10]) == list(range(10))
        assert len(set(groups[10:])) == 6


def test_all_examples_of_a_visit_follow_each_other_and_are_cut(write_dataset):
    dataset = load(write_dataset(MIXED), batch_size=6, epochs_per_block=50)
    sizes = np.array([size for group in MIXED for size in group])
    orders = set()
    for step in range(100):
        example, puzzle, _ = dataset.batch(step).inputs.T
        assert len(example) == 6
        runs = np.split(np.arange(6), np.flatnonzero(np.diff(puzzle)) + 1)
        for i, run in enumerate(runs):
            size = sizes[puzzle[run[0]]]
            last = i == len(runs) - 1
            assert len(run) % size == 0 or last  # a puzzle may be drawn twice running
            if len(run) <= size:
                assert len(set(example[run])) == len(run)
        if puzzle[0] == 7 and len(runs[0]) == 6:  # the puzzle of 7 examples is cut
            orders.add(tuple(example))
    assert len(orders) > 1


def test_groups_of_many_examples_are_visited_once_an_epoch(write_dataset):
    # Two puzzles an epoch with 3 examples each fill a batch of 6 exactly.
    dataset = load(write_dataset([[3, 3], [3]]), batch_size=6)
    for step in range(20):
        puzzle = dataset.batch(step)
        assert sorted(puzzle.inputs[:, 2]) == [0, 0, 0, 1, 1, 1]
        assert len(set(puzzle.inputs[:, 0])) == 6


def test_block_boundaries_with_many_examples(write_dataset):
    # Groups of 3 and 2 examples, 4 a batch: one batch a block, whatever the order.
    dataset = load(write_dataset([[3], [2]]), batch_size=4)
    seen = [tuple(dataset.batch(step).inputs[:, 2]) for step in range(30)]
    assert set(seen) == {(0, 0, 0, 1), (1, 1, 0, 0)}


def test_a_block_without_a_full_batch_is_refused(write_dataset):
    for name, groups in {"flat": FLAT, "mixed": MIXED}.items():
        dataset = load(write_dataset(groups, name=name), batch_size=64)
        with pytest.raises(
            UserError,
            match="got batch_size=64",
        ):
            dataset.batch(0)


def test_examples_follow_the_official_formula(write_dataset):
    dataset = load(write_dataset(MIXED))
    assert dataset.examples_in(10) == 10 * 5 * (24 / 8)
    assert dataset.examples_in(0.5) == 0.5 * 5 * 3


# -- spans and batch sizes -------------------------------------------------------------


def index_of(groups):
    sizes = [size for group in groups for size in group]
    puzzles = None if set(sizes) == {1} else np.cumsum([0, *sizes])
    return Index(np.cumsum([0, *map(len, groups)]), puzzles)


def samplers(index, sizes, epochs):
    """Samplers by their first steps."""
    first, made = None, {}
    for step, size in sizes.items():
        visit = 0 if first is None else made[first].end(step - 1)
        made[step] = EpochSampler(
            index, size, epochs, seed=5, first_step=step, first_visit=visit
        )
        first = step
    return made


def reference(groups, sizes, epochs, steps):
    """The puzzles of each batch, from a walk over single visits."""
    counts = [size for group in groups for size in group]
    index = index_of(groups)
    single = EpochSampler(index, 1, epochs, seed=5)
    block, visit = epochs * index.num_groups, 0
    for step in range(steps):
        size = sizes[max(first for first in sizes if first <= step)]
        puzzles = []
        while len(puzzles) < size:
            puzzle = int(single.examples(visit)[1][0])
            puzzles += [puzzle] * counts[puzzle]
            visit += 1
            if visit % block == 0 and len(puzzles) < size:
                puzzles = []
        yield puzzles[:size]


@pytest.mark.parametrize("span", [1, 7, 12, 100])
@pytest.mark.parametrize("groups", [FLAT, MIXED])
@pytest.mark.parametrize(
    "sizes", [{0: 1}, {0: 6}, {0: 4, 3: 7, 9: 2, 11: 5}, {0: 17, 1: 3, 8: 20, 9: 1}]
)
@pytest.mark.parametrize("epochs", [2, 5])
def test_batches_are_cut_from_one_stream(monkeypatch, span, groups, sizes, epochs):
    """Batches may end in an epoch, begin spans before, or be dropped."""
    monkeypatch.setattr("data.puzzles.sampler.SPAN", span)
    index, steps = index_of(groups), 40
    expected = list(reference(groups, sizes, epochs, steps))
    forward, backward = (samplers(index, sizes, epochs) for _ in range(2))
    for made, order in (forward, range(steps)), (backward, range(steps - 1, -1, -1)):
        for step in order:
            first = max(first for first in sizes if first <= step)
            examples, puzzles = made[first].examples(step)
            assert puzzles.tolist() == expected[step]
            if index.puzzles is not None:
                owner = index.puzzles.searchsorted(examples, side="right") - 1
                assert owner.tolist() == expected[step]


@pytest.mark.parametrize(
    ("groups", "sizes", "digest"),
    [
        (FLAT, {0: 4, 3: 6, 9: 2}, "121d600b20c23d67"),
        (FLAT, {0: 4, 3: 7, 9: 2, 11: 5}, "a3ec1aca06cff937"),
        (FLAT, {0: 2, 1: 7, 2: 1, 20: 6}, "2cb462325d845d37"),
        (MIXED, {0: 4, 3: 6, 9: 2}, "e46664d3c1260efe"),
        (MIXED, {0: 4, 3: 7, 9: 2, 11: 5}, "4e541a8a2662b5cc"),
        (MIXED, {0: 2, 1: 7, 2: 1, 20: 6}, "c28dcaa194928fce"),
    ],
)
def test_resized_batches_stay_what_they_are(
    write_dataset, monkeypatch, groups, sizes, digest
):
    """A run with a batch schedule resumes exactly with a later version."""
    path, content = write_dataset(groups), hashlib.sha256()
    for epochs, span in itertools.product((1, 2, 3), (1 << 16, 12)):
        monkeypatch.setattr("data.puzzles.sampler.SPAN", span)
        settings = {"seed": 5, "epochs_per_block": epochs, "hints": 0.5}
        dataset = load(path, batch_size=sizes[0], **settings)
        for step in range(60):
            if step in sizes:
                dataset = dataset.resized(step, sizes[step])
            puzzle = dataset.batch(step)
            assert len(puzzle.inputs) == dataset.batch_size
            content.update(puzzle.inputs.tobytes())
    assert content.hexdigest()[:16] == digest


def test_a_resized_dataset_loads_its_rows(write_dataset):
    dataset = load(write_dataset(MIXED))
    whole = dataset.resized(3, 6)
    some = dataset.resized(3, 6, rows=np.array([5, 0]))
    assert (some.batch(4).inputs == whole.batch(4).inputs[[5, 0]]).all()
    again = whole.resized(3, 4)
    assert (again.batch(3).inputs == dataset.batch(3).inputs).all()
    with pytest.raises(UserError, match="`step`"):
        whole.batch(2)
    with pytest.raises(UserError, match="`first_step`"):
        whole.resized(2, 4)


def test_the_length_of_a_block_costs_nothing():
    """Today's quickstart: 5,000 epochs of 4,000 groups took 535 MB and some seconds."""
    index = Index(groups=np.arange(0, 36001, 9), puzzles=None)
    tracemalloc.start()
    start = time.perf_counter()
    sampler = EpochSampler(index, 32, 10**9, seed=0)
    for step in (0, 10**6, 10**12):
        sampler.examples(step)
    assert time.perf_counter() - start < 2
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_late_step_of_many_examples_is_found_fast():
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 8, 960 * 900)
    index = Index(np.arange(0, 960 * 900 + 1, 900), np.cumsum([0, *sizes]))
    start = time.perf_counter()
    sampler = EpochSampler(index, 768, 5000, seed=0)
    first = sampler.examples(20_000)
    assert time.perf_counter() - start < 10  # 0.2 s on an idle machine
    again = sampler.examples(20_000)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_batches_stay_what_they_are():
    """So that a run goes on exactly with a later version of this code or of NumPy."""
    flat = Index(groups=np.arange(0, 41, 4), puzzles=None)
    mixed = Index(np.array([0, 2, 3, 5]), np.array([0, 3, 4, 6, 11, 12]))
    found = [
        EpochSampler(index, 6, 3, seed=1).examples(step)[0].tolist()
        for index in (flat, mixed)
        for step in (0, 7)
    ]
    assert found == STAY
