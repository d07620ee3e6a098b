"""Shards of tokens become a dataset."""

import json
from pathlib import Path

import numpy as np
import pytest

from configs import FineWeb, UserError
from data.prepare import main
from data.text import fineweb
from data.text.dataset import TokenDataset
from data.text.fineweb import read_shard


def write_shard(path: Path, tokens: list[int], **header: int) -> Path:
    first = {"magic": 20240520, "version": 1, "count": len(tokens), **header}
    numbers = np.zeros(256, "<i4")
    numbers[:3] = list(first.values())
    path.write_bytes(numbers.tobytes() + np.array(tokens, "<u2").tobytes())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shard(folder / "fineweb_val_000000.bin", [256, 3, 4, 5])
    write_shard(folder / "fineweb_train_000002.bin", [9, 8, 7])
    (folder / "._fineweb_train_000001.bin").write_text("a Mac's own")
    write_shard(folder / "fineweb_train_000001.bin", [256, 1, 2, 3, 4])
    return folder


def build(folder: Path, out: Path, bpe_dir: str, **options: int) -> Path:
    main(
        ["fineweb", "--source", str(folder), "--out", str(out), "--bpe-dir", bpe_dir]
        + [word for k, v in options.items() for word in (f"--{k}", str(v))]
    )
    return out


def test_shards_become_a_dataset(
    folder: Path, tmp_path: Path, bpe_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of their numbers, in pieces, and readable as any other."""
    monkeypatch.setattr(fineweb, "PIECE", 2)
    out = build(folder, tmp_path / "out", bpe_dir, shards=2)
    read = lambda split: np.fromfile(out / f"{split}.bin", "<u2").tolist()
    assert read("train") == [256, 1, 2, 3, 4, 9, 8, 7]
    assert read("val") == [256, 3, 4, 5]
    about = json.loads((out / "dataset.json").read_text())
    assert (about["train_tokens"], about["source"]) == (8, "shards")
    data = TokenDataset(out, "train", block_size=7, batch_size=2)
    assert data.batch(0).inputs.tolist() == [[256, 1, 2, 3, 4, 9, 8]] * 2


def test_more_shards_than_there_are(folder: Path, tmp_path: Path, bpe_dir: str) -> None:
    with pytest.warns(match="2 of 3"):
        build(folder, tmp_path / "out", bpe_dir, shards=3)


def test_fewer_shards(folder: Path, tmp_path: Path, bpe_dir: str) -> None:
    out = build(folder, tmp_path / "out", bpe_dir, shards=1)
    assert np.fromfile(out / "train.bin", "<u2").tolist() == [256, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"magic": 20240521}, "got .20240521, 1"),
        ({"version": 2}, "got .20240520, 2"),
        ({"count": 4}, "4 tokens.* got 1,030"),
    ],
)
def test_damaged_shards(header: dict[str, int], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        read_shard(write_shard(tmp_path / "shard.bin", [1, 2, 3], **header))
    (tmp_path / "short.bin").write_bytes(b"12345678")
    with pytest.raises(UserError, match="short"):
        read_shard(tmp_path / "short.bin")


def test_tokens_that_are_not_gpt2s(folder: Path, tmp_path: Path, bpe_dir: str) -> None:
    write_shard(folder / "fineweb_train_000002.bin", [60000])
    source = FineWeb(source=str(folder), bpe_dir=bpe_dir, shards=2)
    with pytest.raises(UserError, match=r"60000 in .*_000002\.bin"):
        fineweb.build(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_shards(tmp_path: Path, bpe_dir: str) -> None:
    with pytest.raises(UserError, match="has 0 and 0"):
        fineweb.build(FineWeb(source=str(tmp_path), bpe_dir=bpe_dir), tmp_path / "out")
