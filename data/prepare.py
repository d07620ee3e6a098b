"""Build a dataset: `python -m data.prepare {sudoku,generate} --out DIR [options]`.

For example, the paper's Sudoku-Extreme (1,000 puzzles with 1,000 images each), from
the Hugging Face hub or from files at hand:

    python -m data.prepare sudoku
    python -m data.prepare sudoku --train-csv train.csv --test-csv test.csv
    python -m data.prepare generate --out datasets/sudoku-6x6 --size 6
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from configs import GeneratedSudoku, SudokuExtreme
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


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Exits with status 2 and a message if an option or a file is wrong.
    """
    commands = {"sudoku": sudoku, "generate": generate}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m data.prepare", description=__doc__, args=args
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
