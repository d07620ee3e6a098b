"""Building a dataset from its configuration, with a summary in print."""

import time
from pathlib import Path
from typing import assert_never

import numpy as np

from configs import GeneratedSudoku, OpenWebText, Shakespeare, SudokuExtreme, TextFiles
from data.puzzles import generate, sudoku
from data.puzzles.metadata import Metadata
from data.text import build as text
from data.text import openwebtext
from data.text.writer import read_about

Build = SudokuExtreme | GeneratedSudoku | Shakespeare | OpenWebText | TextFiles


def prepare(build: Build, out: Path) -> None:
    """Build the dataset that `build` describes in `out` and print what it holds.

    Raises:
        UserError: if `out` is not vacant or the sources are unusable.
    """
    print(f"building {out} from {build}", flush=True)
    start = time.perf_counter()
    match build:
        case SudokuExtreme():
            sudoku.build(build, out)
        case GeneratedSudoku():
            generate.build_generated(build, out)
        case Shakespeare():
            text.build_shakespeare(build, out)
        case OpenWebText():
            openwebtext.build_openwebtext(build, out)
        case TextFiles():
            text.build_text(build, out)
        case _:
            assert_never(build)
    if isinstance(build, SudokuExtreme | GeneratedSudoku):
        for split in ("train", "test"):
            print(f"{split:>5}: {_describe(out / split)}")
    else:
        print(_describe_text(out))
    print(f"done in {time.perf_counter() - start:.1f} s")


def _describe(folder: Path) -> str:
    """Return one line about a split."""
    metadata = Metadata.read(folder)
    examples, seq = np.load(folder / "all__inputs.npy", mmap_mode="r").shape
    return (
        f"{metadata.total_groups:,} puzzles, {examples:,} examples of {seq} cells, "
        f"content hash {metadata.extra['content_hash']}"
    )


def _describe_text(folder: Path) -> str:
    """Return three lines about a dataset of text."""
    about = read_about(folder)
    return (
        f"train: {about['train_tokens']:,} tokens\n"
        f"  val: {about['val_tokens']:,} tokens\n"
        f"{about['vocab_size']:,} different tokens, content hash "
        f"{about['content_hash']}"
    )
