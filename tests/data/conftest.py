import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from data.text.bpe import BYTES, END

Write = Callable[..., Path]

METADATA = {
    "pad_id": 0,
    "ignore_label_id": 0,
    "blank_identifier_id": 0,
    "vocab_size": 10_000,
    "seq_len": 3,
    "num_puzzle_identifiers": 100,
    "mean_puzzle_examples": 1.0,
    "sets": ["all"],
}


@pytest.fixture
def write_dataset(tmp_path: Path) -> Write:
    """Writes a split whose example i holds the tokens (i + 1, puzzle, group)."""

    def write(
        groups: Sequence[Sequence[int]],
        *,
        name: str = "dataset",
        split: str = "train",
        arrays: dict[str, np.ndarray] | None = None,
        **metadata: object,
    ) -> Path:
        """`groups` lists, for each group, the number of examples of each puzzle."""
        sizes = [size for group in groups for size in group]
        puzzle = np.repeat(np.arange(len(sizes)), sizes)
        group = np.repeat(np.arange(len(groups)), [len(g) for g in groups])[puzzle]
        example = np.arange(len(puzzle))
        inputs = np.stack([example + 1, puzzle, group], axis=1).astype(np.int16)
        content = {
            "inputs": inputs,
            "labels": inputs + np.array([0, 1, 0], np.int16),
            "puzzle_identifiers": np.arange(1, len(sizes) + 1),
            "puzzle_indices": np.cumsum([0, *sizes]),
            "group_indices": np.cumsum([0, *map(len, groups)]),
        }
        folder = tmp_path / name / split
        folder.mkdir(parents=True)
        for key, array in {**content, **(arrays or {})}.items():
            np.save(folder / f"all__{key}.npy", array)
        counts = {"total_groups": len(groups), "total_puzzles": len(sizes)}
        mean = {"mean_puzzle_examples": len(example) / len(sizes)}
        text = json.dumps({**METADATA, **counts, **mean, **metadata})
        (folder / "dataset.json").write_text(text)
        return tmp_path / name

    return write


MERGES = ("t h", "th e", "Ġ the", "Ġ t", "Ċ Ċ", "Ġ Ġ", "a b")


@pytest.fixture(scope="session")
def bpe_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of GPT-2's two files, with 7 merges instead of 50,000."""
    folder = tmp_path_factory.mktemp("bpe")
    names = [*BYTES, *(merge.replace(" ", "") for merge in MERGES), END]
    numbers = {name: i for i, name in enumerate(names)}
    (folder / "encoder.json").write_text(json.dumps(numbers))
    lines = ["#version: 0.2", *MERGES, ""]
    (folder / "vocab.bpe").write_text("\n".join(lines), encoding="utf-8")
    return str(folder)
