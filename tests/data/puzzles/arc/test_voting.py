import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from configs import UserError
from data.puzzles.arc.grid import augmented_name, to_tokens
from data.puzzles.arc.voting import PLACEHOLDER, Votes, grid_key, grid_of
from data.puzzles.symmetry import turn
from tests.arc_golden import expected, predictions, write_official


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official(tmp_path_factory.mktemp("arc") / "dataset")


def test_the_official_evaluator_says_the_same(official: Path, tmp_path: Path):
    votes = Votes.of_datasets([official])
    for batch in predictions():
        votes.add(*batch)
    assert votes.metrics() == pytest.approx(expected("metrics"), abs=1e-12)
    votes.write_submission(tmp_path / "submission.json")
    written = json.loads((tmp_path / "submission.json").read_text())
    assert written == expected("submission")


def test_neither_order_nor_split_of_the_rows_matters(official: Path):
    whole, one, other = (Votes.of_datasets([official]) for _ in range(3))
    batches = predictions()
    for batch in batches:
        whole.add(*batch)
    for i, batch in enumerate(reversed(batches)):
        backwards = [column[::-1] for column in batch]
        (one if i % 2 else other).add(*backwards)
    one.merge(pickle.loads(pickle.dumps(other.tallies)))
    assert one.metrics() == whole.metrics()
    assert one.submission() == whole.submission()


def make(inputs=1) -> Votes:
    """Votes on one task: the answer to an input of color 1 (2, ...) is color 5."""
    test = [{"input": [[i + 1, 0]], "output": [[5, i]]} for i in range(inputs)]
    identity = np.arange(10, dtype=np.uint8)
    names = ["<blank>", "a", *(augmented_name("a", t, identity) for t in range(8))]
    return Votes(names, {"a": {"train": [], "test": test}})


def add(votes: Votes, image: int, answer, q=0.0, question=0) -> None:
    """A vote for `answer` by the image with symmetry `image`."""
    grids = [np.array(grid, np.uint8) for grid in ([[question + 1, 0]], answer)]
    asked, told = (to_tokens(turn(grid, image))[None] for grid in grids)
    votes.add(np.array([2 + image]), asked, told, np.array([q]))


def test_more_votes_win_then_the_higher_mean_confidence():
    votes = make()
    for image, answer, q in [
        (0, [[5, 0]], -3.0),
        (1, [[5, 0]], -3.0),
        (2, [[6]], 9.0),
        (3, [[7]], 10.0),
    ]:
        add(votes, image, answer, q)
    best = votes.submission(3)["a"][0]
    assert list(best.values()) == [[[5, 0]], [[7]], [[6]]]
    assert votes.metrics([1]) == {"ARC/pass@1": 1.0}


def test_a_task_counts_by_its_share_of_inputs():
    votes = make(inputs=2)
    add(votes, 4, [[6]], question=0)
    add(votes, 1, [[5, 0]], question=0)
    add(votes, 2, [[5, 1]], question=1)
    assert votes.metrics([1, 2]) == {"ARC/pass@1": 1.0, "ARC/pass@2": 1.0}
    add(votes, 5, [[6]], question=0)
    assert votes.metrics([1, 2]) == {"ARC/pass@1": 0.5, "ARC/pass@2": 1.0}


def test_equal_ranks_stand_in_the_order_of_the_images():
    for order in ([3, 1], [1, 3]):
        votes = make()
        for image in order:
            add(votes, image, [[image]])
        assert list(votes.submission()["a"][0].values()) == [[[1]], [[3]]]


def test_what_was_not_answered_stays_a_valid_submission():
    votes = make(inputs=2)
    add(votes, 0, [[5, 1]], question=1)
    first, second = votes.submission()["a"]
    assert first == {"attempt_1": PLACEHOLDER, "attempt_2": PLACEHOLDER}
    assert second == {"attempt_1": [[5, 1]], "attempt_2": [[5, 1]]}
    assert votes.metrics([2]) == {"ARC/pass@2": 0.5}


def test_an_answer_without_a_grid_is_an_empty_one():
    votes = make()
    votes.add(
        np.array([2]),
        to_tokens(np.array([[1, 0]], np.uint8))[None],
        np.zeros((1, 900), np.int32),
        np.array([-1000.0]),
    )
    assert votes.submission(1) == {"a": [{"attempt_1": []}]}
    assert votes.metrics([1]) == {"ARC/pass@1": 0.0}


def test_rows_that_fill_a_batch_do_not_count():
    votes = make()
    blank = np.zeros((2, 900), np.int32)
    votes.add(np.zeros(2, int), blank, blank, np.zeros(2))
    assert not votes.tallies


def test_keys_tell_shapes_apart():
    flat, tall = np.ones((1, 4), np.uint8), np.ones((4, 1), np.uint8)
    assert grid_key(flat) != grid_key(tall)
    assert grid_of(grid_key(tall)) == tall.tolist()


def test_a_wrong_dataset_is_told(tmp_path: Path):
    with pytest.raises(UserError, match=r"identifiers.json.*data.prepare arc"):
        Votes.of_datasets([tmp_path])
    votes, blank = make(), np.zeros((1, 900), np.int32)
    with pytest.raises(UserError, match=r"0 \.\. 9: got \[10\]"):
        votes.add(np.array([10]), blank, blank, np.zeros(1))
