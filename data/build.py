"""Build a dataset from its configuration and print a summary."""

import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from configs import (
    ARC,
    FineWeb,
    GeneratedMaze,
    GeneratedSudoku,
    MazeHard,
    OpenWebText,
    Shakespeare,
    SudokuExtreme,
    TextFiles,
)
from data.folder import only_maker, say

BUILDERS: Mapping[type, str] = {
    SudokuExtreme: "data.puzzles.sudoku.extreme",
    GeneratedSudoku: "data.puzzles.sudoku.generate",
    MazeHard: "data.puzzles.maze.hard",
    GeneratedMaze: "data.puzzles.maze.generate",
    ARC: "data.puzzles.arc.build",
    Shakespeare: "data.text.shakespeare",
    TextFiles: "data.text.files",
    OpenWebText: "data.text.openwebtext",
    FineWeb: "data.text.fineweb",
}
"""The module whose `build(config, out)` makes the dataset, imported only for that."""


def prepare(config: Any, out: Path, *, exist_ok: bool = False) -> None:
    """Build a dataset in `out` and print a summary.

    If another process is building it, wait and use its dataset.

    Args:
        config: an instance of a class in `BUILDERS`.
        out: the folder to make.
        exist_ok: leave an existing folder as it is; otherwise it must be vacant.

    Raises:
        UserError: if `out` is not vacant or the sources are unusable.
    """
    start = time.perf_counter()
    with only_maker(out, repr(config)) as made:
        if made:
            say(f"{out} has been made by another process")
        elif exist_ok and out.is_dir() and any(out.iterdir()):
            return
        else:
            say(f"building {out} from {config}")
            importlib.import_module(BUILDERS[type(config)]).build(config, out)
    for line in _describe(out):
        say(line)
    say(f"done in {time.perf_counter() - start:.1f} s")


def _describe(out: Path) -> list[str]:
    """Return lines about a dataset."""
    # Imported here: training on puzzles needs nothing of text, and the other way round.
    from data.puzzles.metadata import Metadata
    from data.text.reading import read_about

    if (about := read_about(out)) is not None:
        return [
            f"train: {about['train_tokens']:,} tokens",
            f"  val: {about['val_tokens']:,} tokens",
            f"{about['vocab_size']:,} different tokens, content hash "
            f"{about['content_hash']}",
        ]
    lines = []
    for split in ("train", "test"):
        metadata = Metadata.read(out / split)
        inputs = np.load(out / split / "all__inputs.npy", mmap_mode="r")
        lines.append(
            f"{split:>5}: {metadata.total_groups:,} puzzles, {len(inputs):,} examples "
            f"of {metadata.seq_len} cells, content hash "
            f"{metadata.extra['content_hash']}"
        )
    return lines
