import numpy as np
import pytest

from data.puzzles.dataset import PuzzleDataset

FLAT = [[1] * 4] * 10  # ten groups of four puzzles of one example
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
        with pytest.raises(ValueError, match="smaller batch or more epochs"):
            dataset.batch(0)


def test_steps_follow_the_official_formula(write_dataset):
    dataset = load(write_dataset(MIXED), batch_size=4)
    assert dataset.steps(10) == int(10 * 5 * (24 / 8) / 4)
    assert dataset.steps(0.5) == int(0.5 * 5 * 3 / 4)
