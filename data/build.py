"""Building a dataset from its configuration, with a summary in print."""

import time
from pathlib import Path
from typing import assert_never

import numpy as np

from configs import GeneratedSudoku, SudokuExtreme
from data import generate, sudoku
from data.metadata import Metadata


def prepare(build: SudokuExtreme | GeneratedSudoku, out: Path) -> None:
    """Build the dataset that `build` describes in `out` and print what it holds.

    Raises:
        ValueError: if `out` is not vacant or the sources are unusable.
    """
    print(f"building {out} from {build}", flush=True)
    start = time.perf_counter()
    match build:
        case SudokuExtreme():
            sudoku.build(build, out)
        case GeneratedSudoku():
            generate.build_generated(build, out)
        case _:
            assert_never(build)
    for split in ("train", "test"):
        print(f"{split:>5}: {_describe(out / split)}")
    print(f"done in {time.perf_counter() - start:.1f} s")


def _describe(folder: Path) -> str:
    """Return one line about a split."""
    metadata = Metadata.read(folder)
    examples, seq = np.load(folder / "all__inputs.npy", mmap_mode="r").shape
    return (
        f"{metadata.total_groups:,} puzzles, {examples:,} examples of {seq} cells, "
        f"content hash {metadata.extra['content_hash']}"
    )
