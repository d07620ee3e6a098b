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
from typing import Annotated, Any, Literal

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


def _command(config_type: Any, folder: str | None = None) -> Callable[..., None]:
    """Return the command that builds a dataset from a configuration.

    Args:
        config_type: makes the configuration; its parameters are the options.
        folder: default of `--out`; None: the option is required.
    """

    def command(
        config: Annotated[config_type, tyro.conf.arg(name="")],  # pyright: ignore
        out: Annotated[Path, tyro.conf.arg(help="Folder to make.")] = (
            tyro.MISSING if folder is None else Path(folder)
        ),
    ) -> None:
        prepare(config, out)

    command.__doc__ = config_type.__doc__
    return command


def _shakespeare(tokens: Literal["char", "gpt2"], folder: str) -> Callable[..., None]:
    """Return the command that builds tiny Shakespeare of these tokens."""

    def command(input: str = "", bpe_dir: str = "", out: Path = Path(folder)) -> None:
        """Tiny Shakespeare.

        Args:
            input: a local copy of `input.txt`; empty to download it.
            bpe_dir: folder of GPT-2's byte pairs; empty: the environment variable
                `GPT2_BPE_DIR`, or else a download.
            out: folder to make.
        """
        config = Shakespeare(tokens=tokens, input=input, bpe_dir=bpe_dir)
        prepare(config, out)

    return command


COMMANDS = {
    "sudoku": _command(SudokuExtreme, "datasets/sudoku-extreme-1k-aug-1000"),
    "generate": _command(GeneratedSudoku),
    "maze": _command(MazeHard, "datasets/maze-30x30-hard-1k"),
    "generated-maze": _command(GeneratedMaze),
    "arc": _command(ARC, "datasets/arc1concept-aug-1000"),
    "shakespeare-char": _shakespeare("char", "datasets/shakespeare-char"),
    "shakespeare": _shakespeare("gpt2", "datasets/shakespeare"),
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
