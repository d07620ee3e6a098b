"""Build a dataset: `python -m data.prepare KIND --out DIR [options]`.

Puzzles, for example the paper's Sudoku-Extreme (1,000 puzzles with 1,000 images each),
from the Hugging Face hub or from files at hand:

    python -m data.prepare sudoku
    python -m data.prepare sudoku --train-csv train.csv --test-csv test.csv
    python -m data.prepare generate --out datasets/sudoku-6x6 --size 6

Text, as nanoGPT's files:

    python -m data.prepare shakespeare-char
    python -m data.prepare shakespeare --input input.txt --bpe-dir gpt2-bpe
    python -m data.prepare openwebtext --processes 16
    python -m data.prepare text --input a.txt b.txt.gz --out datasets/mine
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from configs import GeneratedSudoku, OpenWebText, Shakespeare, SudokuExtreme, TextFiles
from data.build import prepare

SUDOKU_OUT = Path("datasets/sudoku-extreme-1k-aug-1000")


def sudoku(
    build: Annotated[SudokuExtreme, tyro.conf.arg(name="")], out: Path = SUDOKU_OUT
) -> None:
    """Build Sudoku-Extreme, or any list of 9x9 puzzles in its CSV form.

    Args:
        build: what to build.
        out: folder to make.
    """
    prepare(build, out)


def generate(
    build: Annotated[GeneratedSudoku, tyro.conf.arg(name="")], out: Path
) -> None:
    """Make up Sudoku of size 4, 6 or 9; needs no download.

    Args:
        build: what to build.
        out: folder to make.
    """
    prepare(build, out)


def shakespeare_char(
    input: str = "", out: Path = Path("datasets/shakespeare-char")
) -> None:
    """Build tiny Shakespeare, one token a character.

    Args:
        input: a local copy of `input.txt`; empty to download it.
        out: folder to make.
    """
    prepare(Shakespeare(tokens="char", input=input), out)


def shakespeare(
    input: str = "", bpe_dir: str = "", out: Path = Path("datasets/shakespeare")
) -> None:
    """Build tiny Shakespeare in GPT-2's tokens.

    Args:
        input: a local copy of `input.txt`; empty to download it.
        bpe_dir: folder with GPT-2's `encoder.json` and `vocab.bpe`; empty to take that
            of the environment variable `GPT2_BPE_DIR`, or else to download them.
        out: folder to make.
    """
    prepare(Shakespeare(tokens="gpt2", input=input, bpe_dir=bpe_dir), out)


def openwebtext(
    build: Annotated[OpenWebText, tyro.conf.arg(name="")],
    out: Path = Path("datasets/openwebtext"),
) -> None:
    """Build OpenWebText, or documents like it, in GPT-2's tokens.

    Args:
        build: what to build.
        out: folder to make.
    """
    prepare(build, out)


def text(build: Annotated[TextFiles, tyro.conf.arg(name="")], out: Path) -> None:
    """Build a dataset of text files.

    Args:
        build: what to build.
        out: folder to make.
    """
    prepare(build, out)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Exits with status 2 and a message if an option or a file is wrong.
    """
    commands = {
        "sudoku": sudoku,
        "generate": generate,
        "shakespeare-char": shakespeare_char,
        "shakespeare": shakespeare,
        "openwebtext": openwebtext,
        "text": text,
    }
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m data.prepare", description=__doc__, args=args
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
