"""A dataset of an object store is copied once, whole, and checked."""

from pathlib import Path

import numpy as np
import pytest

from configs import GeneratedSudoku, UserError
from data import remote
from data.build import prepare
from data.puzzles.dataset import PuzzleDataset
from data.remote import local_dataset
from data.storage import open_path, upload, write_whole


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    prepare(GeneratedSudoku(size=4, train=16, test=8), tmp_path / "made")
    return tmp_path / "made"


@pytest.fixture
def address(
    dataset: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Of that dataset in a store; copies go to `tmp_path/cache`."""
    monkeypatch.setenv("TINY_RECURSIVE_JAX_DATASETS", str(tmp_path / "cache"))
    remote._copied.cache_clear()
    address = f"{bucket}/{tmp_path.name}/sudoku"
    upload(dataset, open_path(address))  # pyright: ignore[reportArgumentType]
    return address


def copies(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").iterdir())


def test_its_batches_are_those_of_the_original(address: str, dataset: Path) -> None:
    ours, theirs = (
        PuzzleDataset([path], "train", batch_size=8) for path in (address, dataset)
    )
    assert ours.content_hash == theirs.content_hash
    for array, other in zip(ours.batch(3), theirs.batch(3), strict=True):
        np.testing.assert_array_equal(array, other)


def test_it_is_copied_once(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        remote._copied.cache_clear()
        local_dataset(address)
    assert capsys.readouterr().out.count("copying") == 1
    assert copies(tmp_path) == [local_dataset(address)]


def test_other_content_is_another_copy(address: str, tmp_path: Path) -> None:
    first = local_dataset(address)
    write_whole(open_path(f"{address}/identifiers.json"), '["other"]')
    remote._copied.cache_clear()
    second = local_dataset(address)
    assert (second / "identifiers.json").read_text() == '["other"]'
    assert copies(tmp_path) == sorted([first, second])


def test_a_copy_that_differs_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is left of it."""
    files = remote._files(address)
    size, _ = files["identifiers.json"]
    wrong = files | {"identifiers.json": (size, "A" * 22 + "==")}
    monkeypatch.setattr(remote, "_files", lambda address: wrong)
    with pytest.raises(UserError, match=r"identifiers.json"):
        local_dataset(address)
    assert copies(tmp_path) == []


def test_there_must_be_one(address: str) -> None:
    with pytest.raises(UserError, match="gs://"):
        local_dataset(address + "-elsewhere")


def test_a_local_one_stays_where_it_is(dataset: Path) -> None:
    assert local_dataset(str(dataset)) == dataset


def test_none_is_made_in_a_store() -> None:
    with pytest.raises(UserError, match="gs:/"):
        prepare(GeneratedSudoku(size=4, train=16, test=8), Path("gs://bucket/x"))
    assert not Path("gs:").exists()
