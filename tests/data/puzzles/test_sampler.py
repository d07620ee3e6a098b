import time
import tracemalloc

import numpy as np
import pytest

from configs import Piecewise, UserError
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


def constant(size):
    return Piecewise((0,), (size,))


def load(path, *, batch_size: int | Piecewise[int] = 4, **settings):
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
            match="must not be larger than the data of a block: got batch_size=64",
        ):
            dataset.batch(0)


def test_steps_follow_the_official_formula(write_dataset):
    dataset = load(write_dataset(MIXED), batch_size=4)
    assert dataset.steps(10) == int(10 * 5 * (24 / 8) / 4)
    assert dataset.steps(0.5) == int(0.5 * 5 * 3 / 4)


# -- spans of epochs -------------------------------------------------------------------


def reference(sampler, index, batch_size, epochs, blocks):
    """The visits of each batch, going through all epochs one visit after another."""
    batches = []
    for block in range(blocks):
        batch, size = [], 0
        spans = range(block * sampler._spans, (block + 1) * sampler._spans)
        visits = np.concatenate([sampler._plan(span).visits for span in spans])
        assert len(visits) == epochs * index.num_groups
        for puzzle in visits.tolist():
            batch.append(puzzle)
            size += int(index.puzzles[puzzle + 1] - index.puzzles[puzzle])
            if size >= batch_size:
                batches.append(batch)
                batch, size = [], 0
    return batches


@pytest.mark.parametrize("span", [1, 7, 12, 100])
@pytest.mark.parametrize("batch_size", [1, 4, 6, 17, 40])
@pytest.mark.parametrize("epochs", [2, 5])
def test_spans_do_not_change_how_batches_are_cut(monkeypatch, span, batch_size, epochs):
    """Whether a batch ends in an epoch, begins spans before, or is dropped."""
    monkeypatch.setattr("data.puzzles.sampler.SPAN", span)
    sizes = np.array([size for group in MIXED for size in group])
    index = Index(
        groups=np.cumsum([0, *map(len, MIXED)]), puzzles=np.cumsum([0, *sizes])
    )
    make = lambda: EpochSampler(index, constant(batch_size), epochs, seed=5)
    counted = make()
    for _ in range(counted._spans * 6):
        try:
            counted._count()
        except UserError:
            return  # a block without a batch: another test
    expected = reference(counted, index, batch_size, epochs, 6)
    backward = make()
    for sampler, steps in (
        (make(), range(len(expected))),
        (backward, range(len(expected) - 1, -1, -1)),
    ):
        for step in steps:
            examples, puzzles = sampler.examples(step)
            assert len(examples) == batch_size
            found = sampler._visits(*sampler._locate(step), batch_size)
            assert found.tolist() == expected[step]
            assert index.puzzles is not None
            owner = index.puzzles.searchsorted(examples, side="right") - 1
            assert owner.tolist() == puzzles.tolist()
            order = [v for v in expected[step] for _ in range(sizes[v])]
            assert puzzles.tolist() == order[:batch_size]


def test_the_length_of_a_block_costs_nothing():
    """Today's quickstart: 5,000 epochs of 4,000 groups took 535 MB and some seconds."""
    index = Index(groups=np.arange(0, 36001, 9), puzzles=None)
    tracemalloc.start()
    start = time.perf_counter()
    sampler = EpochSampler(index, constant(32), 10**9, seed=0)
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
    sampler = EpochSampler(index, constant(768), 5000, seed=0)
    first = sampler.examples(20_000)
    assert time.perf_counter() - start < 10  # 0.2 s on an idle machine
    again = sampler.examples(20_000)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_batches_stay_what_they_are():
    """So that a run goes on exactly with a later version of this code or of NumPy."""
    flat = Index(groups=np.arange(0, 41, 4), puzzles=None)
    mixed = Index(np.array([0, 2, 3, 5]), np.array([0, 3, 4, 6, 11, 12]))
    found = [
        EpochSampler(index, constant(6), 3, seed=1).examples(step)[0].tolist()
        for index in (flat, mixed)
        for step in (0, 7)
    ]
    assert found == STAY


# -- batches of several sizes ----------------------------------------------------------

SIZES = Piecewise((0, 3, 9, 11), (4, 7, 2, 5))


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_sizes_change_and_every_visit_is_used_as_before(epochs):
    """Batches are cut from one stream; what does not fit into a block is dropped."""
    index = Index(groups=np.arange(0, 41, 4), puzzles=None)
    single = EpochSampler(index, constant(1), epochs, seed=5)
    sampler, begin, block = EpochSampler(index, SIZES, epochs, seed=5), 0, 10 * epochs
    for step in range(40):
        size = SIZES.at(step)
        if begin % block + size > block:
            begin += block - begin % block
        expected = [single.examples(begin + i)[0].item() for i in range(size)]
        assert sampler.examples(step)[0].tolist() == expected
        begin += size
    again = EpochSampler(index, SIZES, epochs, seed=5)
    assert again.examples(39)[0].tolist() == sampler.examples(39)[0].tolist()


def test_sizes_change_where_puzzles_have_many_examples():
    sizes = np.array([size for group in MIXED for size in group])
    index = Index(np.cumsum([0, *map(len, MIXED)]), np.cumsum([0, *sizes]))
    sampler, step = EpochSampler(index, SIZES, 3, seed=5), 0
    for block in range(8):
        spans = range(block * sampler._spans, (block + 1) * sampler._spans)
        visits = np.concatenate([sampler._plan(span).visits for span in spans]).tolist()
        batch = []
        for puzzle in visits:
            batch.append(puzzle)
            if sizes[batch].sum() >= SIZES.at(step):
                _, puzzles = sampler.examples(step)
                order = [v for v in batch for _ in range(sizes[v])]
                assert puzzles.tolist() == order[: SIZES.at(step)]
                batch, step = [], step + 1
    assert step > 12


def test_steps_of_several_sizes(write_dataset):
    """40 examples: 3 x 4, then 6 x 4 and a rest; or 10 x 4."""
    path = write_dataset(FLAT)
    assert load(path, batch_size=4).steps(4) == 10
    assert load(path, batch_size=Piecewise((0, 3), (4, 6))).steps(4) == 3 + 4
    assert load(path, batch_size=Piecewise((0, 3), (4, 6))).steps(1) == 2
