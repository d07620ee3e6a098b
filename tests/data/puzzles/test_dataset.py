import json
import threading
import time
import tracemalloc

import numpy as np
import pytest

from configs import UserError
from data.puzzles.dataset import IGNORE, PuzzleDataset, rounds
from data.puzzles.sampler import Index
from tests.data.conftest import METADATA

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


@pytest.mark.parametrize("hints", [0.5, 1.0])
def test_hints_give_cells_of_the_solution(write_dataset, hints):
    """To a share of the puzzles a random part each, the same on any mesh."""
    path = write_dataset(FLAT)  # of three cells, the middle one is to be filled in
    plain, hinted = load(path), load(path, hints=hints)
    rows = load(path, hints=hints, rows=np.array([3, 1]))
    given = []
    for step in range(600):
        asked, easier = plain.batch(step), hinted.batch(step)
        assert same(rows.batch(step), [field[[3, 1]] for field in easier])
        np.testing.assert_array_equal(easier.labels, asked.labels)
        given.append(easier.inputs[:, 1] == asked.labels[:, 1])
        open_cells = np.where(given[-1], asked.labels[:, 1], asked.inputs[:, 1])
        np.testing.assert_array_equal(easier.inputs[:, 1], open_cells)
        np.testing.assert_array_equal(easier.inputs[:, ::2], asked.inputs[:, ::2])
    assert np.mean(given) == pytest.approx(hints / 2, abs=0.05)  # 5 deviations


def test_no_hints_where_no_cell_is_open(write_dataset):
    """The question of ARC is a grid of its own."""
    arc = {name: np.zeros((2, 900), np.uint8) for name in ("inputs", "labels")}
    path = write_dataset([[1], [1]], seq_len=900, vocab_size=12, arrays=arc)
    with pytest.raises(UserError, match="`hints`"):
        load(path, hints=0.5)


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
    with pytest.raises(UserError, match=r"`index` .* 0 \.\. 1: got 2"):
        dataset.test_batch(2, limit=9)
    with pytest.raises(UserError, match=r"`limit`.* got 0"):
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
    path = write_dataset([[1], [1]], sets=["all", "more"], total_groups=4)
    for file in sorted((path / "train").glob("all__*.npy")):
        file.with_name(file.name.replace("all", "more")).write_bytes(file.read_bytes())
    dataset = load(path, batch_size=4)
    assert dataset.num_examples == 4
    np.testing.assert_array_equal(dataset.test_batch(0).inputs[:, 0], [1, 2, 1, 2])


# -- errors ----------------------------------------------------------------------------


def test_missing_places_are_named(write_dataset, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load(tmp_path / "nowhere")
    path = write_dataset(FLAT)
    with pytest.raises(UserError, match=r"'valid'.* train"):
        PuzzleDataset([path], "valid", batch_size=1)
    (path / "train" / "all__labels.npy").unlink()
    with pytest.raises(UserError, match=r"all__labels\.npy"):
        load(path)
    (path / "train" / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"dataset\.json"):
        load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("seq_len", 2), ("vocab_size", 50), ("pad_id", 1), ("ignore_label_id", None)],
)
def test_merged_datasets_must_agree(write_dataset, key, value):
    one, two = write_dataset(FLAT), write_dataset(FLAT, name="b", **{key: value})
    with pytest.raises(UserError, match=f"`{key}`"):
        load([one, two])


def test_wrong_arguments_are_refused(write_dataset):
    path = write_dataset(FLAT)
    for name in ("batch_size", "epochs_per_block"):
        with pytest.raises(UserError, match=f"`{name}`.* got 0"):
            load(path, **{name: 0})
    with pytest.raises(UserError, match=r"`seed`.* got -1"):
        load(path, seed=-1)
    with pytest.raises(UserError, match=r"`step`.* got -1"):
        load(path).batch(-1)
    with pytest.raises(UserError, match="`rows`"):
        load(path, rows=np.array([0, 4]))
    with pytest.raises(UserError, match="`paths`"):
        PuzzleDataset([], "train", batch_size=1)


# -- the same data twice ---------------------------------------------------------------


def test_a_dataset_given_twice_is_refused(write_dataset, tmp_path):
    path = write_dataset(FLAT)
    (tmp_path / "link").symlink_to(path)
    for again in (path, str(path) + "/", path / "train" / "..", tmp_path / "link"):
        with pytest.raises(UserError, match="dataset twice"):
            load([path, again])


def test_equal_content_is_said(write_dataset):
    one = write_dataset(FLAT, name="one", content_hash="abc")
    two = write_dataset(FLAT, name="two", content_hash="abc")
    with pytest.warns(UserWarning, match=r"one/train .*two/train .*abc"):
        load([one, two])
    write_dataset(FLAT, name="one", split="test", content_hash="abc")
    with pytest.warns(UserWarning, match=r"one/train .*one/test .*abc"):
        load(one)
    PuzzleDataset([one], "test", batch_size=1)


def test_a_content_hash_is_recorded_or_sampled(write_dataset):
    one = write_dataset(FLAT, name="one", content_hash="abc")
    assert load(one).content_hash == "abc"
    two = write_dataset(FLAT, name="two")
    first = load(two).content_hash
    (two / "train" / "._all__inputs.npy").write_text("hidden")
    assert first.startswith("sampled-")
    assert first == load(write_dataset(FLAT, name="three")).content_hash
    assert first != load(write_dataset(FLAT[1:], name="four")).content_hash
    both = {load([one, two]).content_hash, load([two, one]).content_hash}
    assert len(both | {first, "abc"}) == 4


# -- drawing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"kind": "sudoku", "vocab_size": 6}, "1 2 | 3 4     1 2 | 3 4!"),
        ({"vocab_size": 6}, "1 2 | 3 4     1 2 | 3 4!"),
        ({"vocab_size": 7}, "2 3 4 5    2 3 4 5!"),
        ({"kind": "chess", "vocab_size": 6}, "2 3 4 5    2 3 4 5!"),
        ({"kind": 5, "vocab_size": 6}, "1 2 | 3 4     1 2 | 3 4!"),
    ],
)
def test_a_dataset_draws_itself(write_dataset, settings, line):
    board = np.arange(16) % 4 + 2
    arrays = {name: board[None].repeat(2, 0) for name in ("inputs", "labels")}
    path = write_dataset([[1], [1]], arrays=arrays, seq_len=16, **settings)
    dataset = load(path, batch_size=2)
    puzzle = dataset.batch(0)
    wrong = np.where(np.arange(16) == 3, 0, puzzle.labels[0])
    text = dataset.kind.draw(puzzle.inputs[0], puzzle.labels[0], wrong)
    assert "prediction (1 wrong)" in text
    assert text.splitlines()[1] == line


def test_merged_datasets_keep_their_kind(write_dataset):
    one, two = (write_dataset(FLAT, name=name, kind="sudoku") for name in "ab")
    assert load([one, two]).metadata.kind == "sudoku"
    three = write_dataset(FLAT, name="c", kind="maze")
    assert load([one, three]).metadata.kind is None


# -- size ------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", [1, 5])
def test_four_million_examples_open_at_once(tmp_path, examples):
    """As large as ARC with all its images: 960 groups, 800 thousand puzzles or more."""
    folder, groups, count = tmp_path / "train", 960, 4_032_000
    folder.mkdir()
    puzzles = count // examples
    for name in ("inputs", "labels"):  # holes, which take no room on the disk
        file = folder / f"all__{name}.npy"
        np.lib.format.open_memmap(file, "w+", np.uint8, (count, 900))
    np.save(folder / "all__puzzle_identifiers.npy", np.zeros(puzzles, np.int32))
    index = np.arange(0, count + 1, examples, dtype=np.int32)
    np.save(folder / "all__puzzle_indices.npy", index)
    index = np.arange(0, puzzles + 1, puzzles // groups, dtype=np.int32)
    np.save(folder / "all__group_indices.npy", index)
    sizes = {"total_groups": groups, "total_puzzles": puzzles, "seq_len": 900}
    metadata = {**METADATA, **sizes, "mean_puzzle_examples": examples}
    (folder / "dataset.json").write_text(json.dumps(metadata))
    tracemalloc.start()
    start = time.perf_counter()
    dataset = load(tmp_path, batch_size=64, epochs_per_block=5000)
    assert dataset.batch(0).inputs.shape == (64, 900)
    assert time.perf_counter() - start < 5  # 0.2 s on an idle machine
    assert tracemalloc.get_traced_memory()[1] < 60e6
    tracemalloc.stop()
    assert dataset.content_hash.startswith("sampled-")


@pytest.mark.parametrize(
    ("groups", "puzzles", "expected"),
    [
        ([0, 2, 3, 5], None, [0, 2, 3, 1, 4]),
        ([0, 2, 3], [0, 2, 3, 5], [0, 3, 1, 4, 2]),
    ],
)
def test_rounds_take_one_example_of_every_group(groups, puzzles, expected) -> None:
    index = Index(np.array(groups), None if puzzles is None else np.array(puzzles))
    assert rounds(index, 5).tolist() == expected
