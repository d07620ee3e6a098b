import json

import pytest

from configs import UserError
from data.puzzles.dataset import PuzzleDataset
from data.puzzles.metadata import Metadata

FLAT = [[1] * 4] * 10  # ten groups of four puzzles of one example


def load(path, *, batch_size=4, **settings):
    return PuzzleDataset([path], "train", batch_size=batch_size, **settings)


def test_metadata_keeps_other_keys_apart(write_dataset):
    path = write_dataset(FLAT, seed=5, board="9x9")
    metadata = Metadata.read(path / "train")
    assert metadata.extra == {"seed": 5, "board": "9x9"}
    metadata.write(path / "train")
    again = Metadata.read(path / "train")
    assert (again, again.extra) == (metadata, metadata.extra)


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
        ({"mean_puzzle_examples": 10**400}, "`mean_puzzle_examples` is 1000"),
        ({"mean_puzzle_examples": float("inf")}, "`mean_puzzle_examples` is inf"),
        ({"mean_puzzle_examples": 1.5}, "`mean_puzzle_examples` .*got 1.5 .*have 1"),
        ({"total_groups": 7}, "`total_groups` .*got 7 .*have 10"),
        ({"total_groups": 10**9}, "`total_groups` .*got 1000000000 .*have 10"),
        ({"total_groups": 10**10}, "`total_groups` is 10000000000"),
        ({"pad_id": 10_000}, "`pad_id` is 10000, with `vocab_size` 10000"),
        ({"blank_identifier_id": 100}, "`blank_identifier_id` is 100, with"),
        ({"vocab_size": 2**31}, "`vocab_size` is 2147483648"),
        ({"sets": ["../train/all"]}, "`sets` is "),
        ({"sets": ["/elsewhere/all"]}, "`sets` is "),
        ({"sets": ["..\\all"]}, "`sets` is "),
        ({"sets": ["all", "all"]}, "`sets` is "),
    ],
)
def test_wrong_metadata_is_refused(write_dataset, change, message):
    with pytest.raises(UserError, match=message):
        load(write_dataset(FLAT, **change))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "a list"),
        ("{}", "lacks pad_id"),
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
    ],
)
def test_malformed_metadata_is_refused(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=message):
        Metadata.read(tmp_path)


def test_a_missing_key_is_named(write_dataset):
    file = write_dataset(FLAT) / "train" / "dataset.json"
    values = json.loads(file.read_text())
    del values["seq_len"]
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match="seq_len"):
        Metadata.read(file.parent)


def test_hrms_metadata_lacks_the_number_of_puzzles(write_dataset):
    path = write_dataset(FLAT)
    file = path / "train" / "dataset.json"
    values = json.loads(file.read_text())
    del values["total_puzzles"]
    file.write_text(json.dumps(values), encoding="utf-8-sig")
    assert load(path).metadata.total_puzzles == 10
    assert load(path).examples_in(8) == 80


def test_official_sudoku_counts_its_groups_as_puzzles(write_dataset):
    path = write_dataset(FLAT, total_puzzles=10)
    assert load(path).examples_in(8) == 80
