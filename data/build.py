"""Building a dataset from its configuration, with a summary in print."""

import time
from pathlib import Path
from typing import assert_never

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
from data.puzzles.arc import build as arc
from data.puzzles.maze import generate as maze_generate
from data.puzzles.maze import kind as maze
from data.puzzles.metadata import Metadata
from data.puzzles.sudoku import extreme as sudoku
from data.puzzles.sudoku import generate
from data.text import build as text
from data.text import openwebtext, shards
from data.text.reading import read_about

Build = (
    SudokuExtreme
    | GeneratedSudoku
    | MazeHard
    | GeneratedMaze
    | ARC
    | Shakespeare
    | OpenWebText
    | FineWeb
    | TextFiles
)


def prepare(build: Build, out: Path, *, exist_ok: bool = False) -> None:
    """Build the dataset that `build` describes in `out` and print what it holds.

    If another process is just making it, wait for that and take its dataset.

    Args:
        build: what to build.
        out: the folder to make.
        exist_ok: whether to leave a folder that is already there as it is; else it must
            be vacant.

    Raises:
        UserError: if `out` is not vacant or the sources are unusable.
    """
    start = time.perf_counter()
    with only_maker(out, repr(build)) as made:
        if made:
            say(f"{out} has been made by another process")
        elif exist_ok and out.is_dir() and any(out.iterdir()):
            return
        else:
            say(f"building {out} from {build}")
            _build(build, out)
    for line in _describe(out):
        say(line)
    say(f"done in {time.perf_counter() - start:.1f} s")


def _build(build: Build, out: Path) -> None:
    """Build the dataset that `build` describes."""
    match build:
        case SudokuExtreme():
            sudoku.build(build, out)
        case GeneratedSudoku():
            generate.build(build, out)
        case MazeHard():
            maze.build(build, out)
        case GeneratedMaze():
            maze_generate.build(build, out)
        case ARC():
            arc.build(build, out)
        case Shakespeare():
            text.build_shakespeare(build, out)
        case OpenWebText():
            openwebtext.build_openwebtext(build, out)
        case FineWeb():
            shards.build_fineweb(build, out)
        case TextFiles():
            text.build_text(build, out)
        case _:
            assert_never(build)


def _describe(out: Path) -> list[str]:
    """Lines about a dataset."""
    if (about := read_about(out)) is not None:
        return [
            f"train: {about['train_tokens']:,} tokens",
            f"  val: {about['val_tokens']:,} tokens",
            f"{about['vocab_size']:,} different tokens, content hash "
            f"{about['content_hash']}",
        ]
    splits = ("train", "test")
    return [f"{split:>5}: {_describe_split(out / split)}" for split in splits]


def _describe_split(folder: Path) -> str:
    """A line about a split of puzzles."""
    metadata = Metadata.read(folder)
    examples, seq = np.load(folder / "all__inputs.npy", mmap_mode="r").shape
    return (
        f"{metadata.total_groups:,} puzzles, {examples:,} examples of {seq} cells, "
        f"content hash {metadata.extra['content_hash']}"
    )
