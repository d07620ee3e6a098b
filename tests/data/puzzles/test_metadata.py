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
    ],
)
def test_wrong_metadata_is_refused(write_dataset, change, message):
    with pytest.raises(UserError, match=message):
        load(write_dataset(FLAT, **change))


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON"), ("[]", "a list"), ("{}", "lacks pad_id")]
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
    with pytest.raises(UserError, match="it lacks seq_len"):
        Metadata.read(file.parent)
