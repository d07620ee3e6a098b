import numpy as np
import pytest

from configs import UserError
from data.puzzles.dataset import PuzzleDataset

FLAT = [[1] * 4] * 10  # ten groups of four puzzles of one example


def load(path, *, batch_size=4, **settings):
    return PuzzleDataset([path], "train", batch_size=batch_size, **settings)


SMALL = [[1, 2], [1]]  # 4 examples, 3 puzzles, 2 groups
TOKENS = np.ones((4, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("inputs", TOKENS[:, :2], r"the shape \(examples, 3\): got \(4, 2\)"),
        ("inputs", TOKENS.reshape(-1), r"the shape \(examples, 3\): got \(12,\)"),
        ("inputs", TOKENS[:0], "all__inputs.npy"),
        ("inputs", TOKENS.astype(np.float32), "integers: got float32"),
        ("labels", TOKENS[:3], "4 rows, as inputs: got 3"),
        ("puzzle_indices", np.array([1, 2, 3, 4]), "a first entry of 0: got 1"),
        ("puzzle_indices", np.array([0, 1, 2, 3]), "a last entry of 4, all examples"),
        ("puzzle_indices", np.array([0, 2, 2, 4]), "got 2 and 2 at 1 and 2"),
        ("puzzle_indices", np.array([0, 3, 1, 4]), "got 3 and 1 at 1 and 2"),
        ("puzzle_indices", np.array([[0, 4]]), "one dimension"),
        ("puzzle_indices", np.array(4), "one dimension"),
        ("group_indices", np.array([0]), "two entries"),
        ("group_indices", np.array([[0, 1, 3]]), "one dimension"),
        ("group_indices", np.array([0, 1, 2]), "a last entry of 3, all puzzles"),
        ("puzzle_identifiers", np.array(1), r"the shape \(3,\)"),
        ("group_indices", np.array([0, 1, 4]), "a last entry of 3, all puzzles"),
        ("puzzle_identifiers", np.array([1, 2]), r"the shape \(3,\)"),
        ("puzzle_identifiers", np.array([1, 100, 3]), r"0 to 99: got 100 at \(1,\)"),
        ("puzzle_identifiers", np.array([1, -1, 3]), r"0 to 99: got -1 at \(1,\)"),
        ("inputs", TOKENS * 20, r"0 to 19: got 20 at \(0, 0\)"),
        ("inputs", TOKENS.astype(np.int8) * -100, "0 to 19: got -100"),
        ("labels", TOKENS * 20, "0 to 19: got 20"),
    ],
)
def test_broken_arrays_are_refused(write_dataset, name, array, message):
    path = write_dataset(SMALL, arrays={name: array}, vocab_size=20)
    with pytest.raises(UserError, match=message) as error:
        load(path).test_batch(0)
    assert f"all__{name}.npy" in str(error.value)


def test_an_ignored_label_may_lie_outside_the_vocabulary(write_dataset):
    labels = np.array([[1, -100, 2]] * 4)
    path = write_dataset(SMALL, arrays={"labels": labels}, ignore_label_id=-100)
    assert (load(path).test_batch(0).labels == labels).all()
    labels = np.where(labels < 0, -99, labels)
    arrays = {"labels": labels}
    path = write_dataset(SMALL, name="bad", arrays=arrays, ignore_label_id=-100)
    with pytest.raises(UserError, match=r"got -99 at \(0, 1\)"):
        load(path).test_batch(0)


def test_a_bad_token_is_found_by_the_batches_that_have_it(write_dataset):
    inputs = TOKENS.copy()
    inputs[3, 1] = 200
    path = write_dataset(SMALL, arrays={"inputs": inputs}, vocab_size=20)
    dataset = load(path, batch_size=2)
    dataset.test_batch(0)
    with pytest.raises(UserError, match=r"all__inputs.*got 200 at \(3, 1\)"):
        dataset.test_batch(1)
    everything = load(path, batch_size=4, epochs_per_block=9)
    with pytest.raises(UserError, match=r"got 200 at \(3, 1\)"):
        [everything.batch(step) for step in range(9)]


def test_a_large_index_is_looked_at_where_it_is_used(write_dataset, monkeypatch):
    monkeypatch.setattr("data.puzzles.reading.CHECKED", 3)
    ids = np.array([1, 2, 100, 3])
    puzzles = np.array([0, 3, 1, 2, 4])  # one example each, so only its ends count
    arrays = {"puzzle_identifiers": ids, "puzzle_indices": puzzles}
    dataset = load(write_dataset([[1], [1, 1, 1]], arrays=arrays), batch_size=2)
    np.testing.assert_array_equal(dataset.test_batch(0).puzzle_id, [1, 2])
    with pytest.raises(UserError, match=r"identifiers.*got 100 at \(2,\)"):
        dataset.test_batch(1)


@pytest.mark.parametrize("name", ["inputs", "puzzle_indices", "puzzle_identifiers"])
@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY\x01\x00\xff", b"[1, 2]"]
)
def test_what_is_no_array_is_refused(write_dataset, name, content):
    path = write_dataset(FLAT)
    (path / "train" / f"all__{name}.npy").write_bytes(content)
    with pytest.raises(UserError, match=rf"all__{name}\.npy` must have a readable"):
        load(path)


def test_a_truncated_array_is_refused(write_dataset):
    for name in ("inputs", "group_indices"):
        path = write_dataset(FLAT, name=name)
        file = path / "train" / f"all__{name}.npy"
        file.write_bytes(file.read_bytes()[:-8])
        with pytest.raises(
            ValueError, match=rf"all__{name}\.npy` must have a readable"
        ):
            load(path)
