import json
import threading

import numpy as np
import pytest

from data.puzzles.dataset import IGNORE, Metadata, PuzzleDataset

FLAT = [[1] * 4] * 10  # ten groups of four puzzles of one example
MIXED = [[3, 1], [2], [5, 4, 1], [1], [7]]


def load(path, *, batch_size=4, **settings):
    paths = path if isinstance(path, list) else [path]
    return PuzzleDataset(paths, "train", batch_size=batch_size, **settings)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# -- purity ----------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [FLAT, MIXED])
def test_a_batch_depends_on_seed_and_step_alone(write_dataset, groups):
    path = write_dataset(groups)
    settings = {"batch_size": 4, "seed": 3, "epochs_per_block": 3}
    first = load(path, **settings)
    batches = [first.batch(step) for step in range(25)]
    other = load(path, **settings)
    for step in np.random.default_rng(0).permutation(25):
        assert same(other.batch(int(step)), batches[step])
    different = load(path, batch_size=4, seed=4, epochs_per_block=3)
    assert not all(same(different.batch(step), batches[step]) for step in range(25))


@pytest.mark.parametrize("groups", [FLAT, MIXED])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_rows_of_all_processes_make_the_global_batch(write_dataset, groups, processes):
    path = write_dataset(groups)
    whole = load(path, epochs_per_block=2)
    rows = np.split(np.arange(4), processes)
    parts = [load(path, epochs_per_block=2, rows=own) for own in rows]
    for step in range(12):
        joined = zip(*(part.batch(step) for part in parts), strict=True)
        assert same([np.concatenate(field) for field in joined], whole.batch(step))
    for index in range(whole.num_test_batches()):
        joined = zip(*(part.test_batch(index) for part in parts), strict=True)
        joined = [np.concatenate(field) for field in joined]
        assert same(joined, whole.test_batch(index))


def test_rows_come_in_the_order_asked_for(write_dataset):
    path = write_dataset(FLAT)
    some = load(path, rows=np.array([3, 0])).batch(5)
    assert same(some, [field[[3, 0]] for field in load(path).batch(5)])


def test_small_and_unsigned_index_types_do_not_overflow(write_dataset):
    types = {
        "puzzle_identifiers": np.arange(200, dtype=np.uint8),
        "puzzle_indices": np.arange(201, dtype=np.uint64),
        "group_indices": np.arange(201, dtype=np.uint8),
    }
    settings = {"arrays": types, "num_puzzle_identifiers": 200}
    paths = [write_dataset([[1]] * 200, name=name, **settings) for name in "ab"]
    dataset = load(paths, batch_size=200, rows=np.array([150, 199], np.uint8))
    np.testing.assert_array_equal(dataset.test_batch(1).puzzle_id, [350, 399])
    np.testing.assert_array_equal(dataset.test_batch(1).inputs[:, 1], [150, 199])
    assert dataset.batch(3).puzzle_id.dtype == np.int32


def test_threads_get_the_same_batches(write_dataset):
    path = write_dataset(MIXED)
    dataset = load(path, epochs_per_block=2)
    expected = [load(path, epochs_per_block=2).batch(step) for step in range(40)]
    wrong = []

    def work(steps):
        wrong.extend(s for s in steps if not same(dataset.batch(s), expected[s]))

    orders = range(40), range(39, -1, -1)
    threads = [threading.Thread(target=work, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- epochs and blocks -----------------------------------------------------------------


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


# -- content ---------------------------------------------------------------------------


def test_arrays_are_int32_and_ignored_labels_marked(write_dataset):
    path = write_dataset([[1], [1]])
    puzzle = load(path, batch_size=2).batch(0)
    assert {field.dtype for field in puzzle} == {np.dtype(np.int32)}
    example = puzzle.inputs[:, 0] - 1
    np.testing.assert_array_equal(puzzle.puzzle_id, example + 1)
    expected = np.stack([example + 1, example + 1, example], axis=1)
    np.testing.assert_array_equal(
        puzzle.labels, np.where(expected == 0, IGNORE, expected)
    )
    assert (puzzle.labels == IGNORE).any()


def test_labels_stay_without_an_ignored_one(write_dataset):
    path = write_dataset([[1], [1]], ignore_label_id=None)
    assert load(path, batch_size=2).batch(0).labels.min() == 0


def test_test_batches_keep_file_order_and_are_padded(write_dataset):
    path = write_dataset(MIXED, pad_id=7, blank_identifier_id=9)
    dataset = load(path, batch_size=10)
    assert dataset.num_examples == 24
    batches = [dataset.test_batch(i) for i in range(dataset.num_test_batches())]
    inputs, labels, ids = (np.concatenate(f) for f in zip(*batches, strict=True))
    np.testing.assert_array_equal(inputs[:24, 0], np.arange(1, 25))
    np.testing.assert_array_equal(ids[:24], inputs[:24, 1] + 1)
    assert len(inputs) == 30
    assert (inputs[24:] == 7).all()
    assert (labels[24:] == IGNORE).all()
    assert (ids[24:] == 9).all()


def test_a_limit_pads_what_lies_beyond(write_dataset):
    dataset = load(write_dataset(FLAT), batch_size=8)
    assert [dataset.num_test_batches(n) for n in (1, 8, 9, 40, 99)] == [1, 1, 2, 5, 5]
    assert (dataset.test_batch(1, limit=9).labels[:, 0] == [9] + [IGNORE] * 7).all()
    with pytest.raises(ValueError, match=r"`index` must lie in 0 \.\. 1: got 2"):
        dataset.test_batch(2, limit=9)
    with pytest.raises(ValueError, match="`limit` must be at least 1"):
        dataset.num_test_batches(0)


def test_merging_offsets_identifiers_but_not_the_blank_one(write_dataset):
    ids = {"puzzle_identifiers": np.array([0, 4])}
    one = write_dataset([[1], [1]], name="one", num_puzzle_identifiers=5, arrays=ids)
    two = write_dataset([[1, 1]], name="two", num_puzzle_identifiers=6, arrays=ids)
    merged = load([one, two], batch_size=3)
    assert merged.metadata.num_puzzle_identifiers == 11
    assert merged.metadata.total_groups == 3
    assert merged.metadata.total_puzzles == 4
    whole = merged.test_batch(0), merged.test_batch(1)
    np.testing.assert_array_equal(whole[0].puzzle_id, [0, 4, 0])
    np.testing.assert_array_equal(whole[1].puzzle_id, [9, 0, 0])
    np.testing.assert_array_equal(whole[1].inputs[0], [2, 1, 0])
    for step in range(10):
        kinds = sorted(map(tuple, merged.batch(step).inputs))
        assert kinds in (
            [(1, 0, 0), (1, 0, 0), (2, 1, 1)],
            [(1, 0, 0), (2, 1, 0), (2, 1, 1)],
        )


def test_merging_weighs_the_mean_number_of_examples(write_dataset):
    one = write_dataset([[4]], name="one")
    two = write_dataset([[1], [1], [2]], name="two")
    assert load([one, two]).metadata.mean_puzzle_examples == 2.0


def test_several_sets_are_read(write_dataset):
    path = write_dataset([[1], [1]], sets=["all", "more"])
    for file in sorted((path / "train").glob("all__*.npy")):
        file.with_name(file.name.replace("all", "more")).write_bytes(file.read_bytes())
    dataset = load(path, batch_size=4)
    assert dataset.num_examples == 4
    np.testing.assert_array_equal(dataset.test_batch(0).inputs[:, 0], [1, 2, 1, 2])


def test_metadata_keeps_other_keys_apart(write_dataset):
    path = write_dataset(FLAT, seed=5, board="9x9")
    metadata = Metadata.read(path / "train")
    assert metadata.extra == {"seed": 5, "board": "9x9"}
    metadata.write(path / "train")
    again = Metadata.read(path / "train")
    assert (again, again.extra) == (metadata, metadata.extra)


# -- errors ----------------------------------------------------------------------------


def test_missing_places_are_named(write_dataset, tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*nowhere"):
        load(tmp_path / "nowhere")
    path = write_dataset(FLAT)
    with pytest.raises(ValueError, match=r"split 'valid': .* has train\."):
        PuzzleDataset([path], "valid", batch_size=1)
    (path / "train" / "all__labels.npy").unlink()
    with pytest.raises(ValueError, match=r"all__labels\.npy is missing"):
        load(path)
    (path / "train" / "dataset.json").unlink()
    with pytest.raises(ValueError, match=r"must hold `dataset\.json`"):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pad_id": None}, "`pad_id` is None"),
        ({"pad_id": -1}, "`pad_id` is -1"),
        ({"vocab_size": "11"}, "`vocab_size` is '11'"),
        ({"vocab_size": 0}, "`vocab_size` is 0"),
        ({"seq_len": 2.5}, "`seq_len` is 2.5"),
        ({"total_groups": True}, "`total_groups` is True"),
        ({"sets": []}, r"`sets` is \[\]"),
        ({"sets": "all"}, "`sets` is 'all'"),
        ({"mean_puzzle_examples": 0}, "`mean_puzzle_examples` is 0"),
    ],
)
def test_wrong_metadata_is_refused(write_dataset, change, message):
    with pytest.raises(ValueError, match=message):
        load(write_dataset(FLAT, **change))


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON"), ("[]", "a list"), ("{}", "lacks pad_id")]
)
def test_malformed_metadata_is_refused(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Metadata.read(tmp_path)


def test_a_missing_key_is_named(write_dataset):
    file = write_dataset(FLAT) / "train" / "dataset.json"
    values = json.loads(file.read_text())
    del values["seq_len"]
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="it lacks seq_len"):
        Metadata.read(file.parent)


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
        ("group_indices", np.array([0]), "two entries"),
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
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert f"all__{name}.npy" in str(error.value)


def test_an_ignored_label_may_lie_outside_the_vocabulary(write_dataset):
    labels = np.array([[1, -100, 2]] * 4)
    path = write_dataset(SMALL, arrays={"labels": labels}, ignore_label_id=-100)
    assert (load(path).test_batch(0).labels == labels).all()
    labels = np.where(labels < 0, -99, labels)
    arrays = {"labels": labels}
    path = write_dataset(SMALL, name="bad", arrays=arrays, ignore_label_id=-100)
    with pytest.raises(ValueError, match=r"got -99 at \(0, 1\)"):
        load(path)


def test_a_bad_token_is_found_in_any_chunk(write_dataset, monkeypatch):
    monkeypatch.setattr("data.puzzles.reading.CHUNK", 5)
    inputs = TOKENS.copy()
    inputs[3, 1] = 200
    path = write_dataset(SMALL, arrays={"inputs": inputs}, vocab_size=20)
    with pytest.raises(ValueError, match=r"got 200 at \(3, 1\)"):
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


@pytest.mark.parametrize(
    ("key", "value"),
    [("seq_len", 2), ("vocab_size", 50), ("pad_id", 1), ("ignore_label_id", None)],
)
def test_merged_datasets_must_agree(write_dataset, key, value):
    one, two = write_dataset(FLAT), write_dataset(FLAT, name="b", **{key: value})
    with pytest.raises(ValueError, match=f"agree on `{key}`"):
        load([one, two])


def test_wrong_arguments_are_refused(write_dataset):
    path = write_dataset(FLAT)
    for name in ("batch_size", "epochs_per_block"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1"):
            load(path, **{name: 0})
    with pytest.raises(ValueError, match="`seed` must be at least 0"):
        load(path, seed=-1)
    with pytest.raises(ValueError, match="`step` must be at least 0"):
        load(path).batch(-1)
    with pytest.raises(ValueError, match="`rows` must lie in"):
        load(path, rows=np.array([0, 4]))
    with pytest.raises(ValueError, match="list of dataset directories"):
        PuzzleDataset([], "train", batch_size=1)
