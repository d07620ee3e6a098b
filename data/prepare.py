"""Build a dataset: `python -m data.prepare KIND --out DIR [options]`.

Puzzles, for example the paper's Sudoku-Extreme (1,000 puzzles with 1,000 images each),
from the Hugging Face hub or from files at hand:

    python -m data.prepare sudoku
    python -m data.prepare sudoku --train-csv train.csv --test-csv test.csv
    python -m data.prepare generate --out datasets/sudoku-6x6 --size 6
    python -m data.prepare maze
    python -m data.prepare generated-maze --out datasets/maze-10x10 --size 10 \
        --least-path 14
    python -m data.prepare arc --source kaggle/combined

Text, as nanoGPT's files:

    python -m data.prepare shakespeare-char
    python -m data.prepare shakespeare --input input.txt --bpe-dir gpt2-bpe
    python -m data.prepare openwebtext --processes 16
    python -m data.prepare fineweb --source folder-of-shards
    python -m data.prepare text --input a.txt b.txt.gz --out datasets/mine
"""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

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
from data.build import prepare
from train import cli


def _command(kind: Any, default: str | None = None) -> Callable[..., None]:
    """The command that builds what a configuration of this kind describes.

    Args:
        kind: class of the configuration; its fields are the options.
        default: folder to make where `--out` names none; None: it must.
    """

    def command(
        build: Annotated[kind, tyro.conf.arg(name="")],  # pyright: ignore
        out: Annotated[Path, tyro.conf.arg(help="Folder to make.")] = (
            tyro.MISSING if default is None else Path(default)
        ),
    ) -> None:
        prepare(build, out)

    command.__doc__ = kind.__doc__
    return command


def _shakespeare_char(
    input: str = "", out: Path = Path("datasets/shakespeare-char")
) -> None:
    """Tiny Shakespeare, one token a character.

    Args:
        input: a local copy of `input.txt`; empty to download it.
        out: folder to make.
    """
    prepare(Shakespeare(tokens="char", input=input), out)


def _shakespeare(
    input: str = "", bpe_dir: str = "", out: Path = Path("datasets/shakespeare")
) -> None:
    """Tiny Shakespeare in GPT-2's tokens.

    Args:
        input: a local copy of `input.txt`; empty to download it.
        bpe_dir: folder with GPT-2's `encoder.json` and `vocab.bpe`; empty to take that
            of the environment variable `GPT2_BPE_DIR`, or else to download them.
        out: folder to make.
    """
    prepare(Shakespeare(tokens="gpt2", input=input, bpe_dir=bpe_dir), out)


COMMANDS = {
    "sudoku": _command(SudokuExtreme, "datasets/sudoku-extreme-1k-aug-1000"),
    "generate": _command(GeneratedSudoku),
    "maze": _command(MazeHard, "datasets/maze-30x30-hard-1k"),
    "generated-maze": _command(GeneratedMaze),
    "arc": _command(ARC, "datasets/arc1concept-aug-1000"),
    "shakespeare-char": _shakespeare_char,
    "shakespeare": _shakespeare,
    "openwebtext": _command(OpenWebText, "datasets/openwebtext"),
    "fineweb": _command(FineWeb, "datasets/fineweb"),
    "text": _command(TextFiles),
}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Raises:
        UserError: if an option or a file is wrong.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # remove a partial folder
    tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="python -m data.prepare", description=__doc__, args=args
    )


if __name__ == "__main__":
    cli.run(main)
