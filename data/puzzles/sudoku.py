"""Sudoku-Extreme: from lists of puzzles in CSV form to a dataset.

Source: official `dataset/build_sudoku_dataset.py`. Unlike there, the subsample and the
images come from a seed, and rows are checked.
"""

import shlex
from pathlib import Path

import numpy as np

from configs import SudokuExtreme
from data.puzzles.board import augment
from data.puzzles.sudoku_csv import BOX, read_csv
from data.puzzles.writer import Boards, check_vacant, write_sudoku


def build(config: SudokuExtreme, out: Path) -> None:
    """Build the dataset in `out`; only training puzzles get images.

    Raises:
        ValueError: if `out` is not vacant, or the CSV files are bad or not to be had.
    """
    check_vacant(out)
    train = _read_split(config, "train", out)
    test = _read_split(config, "test", out)
    total = len(train[0])
    if config.subsample is not None and config.subsample < total:
        rng = np.random.default_rng((config.seed, 0))
        chosen = rng.choice(total, size=config.subsample, replace=False)
        train = (train[0][chosen], train[1][chosen])
    rng = np.random.default_rng((config.seed, 1))
    images = augment(*train, config.augmentations, BOX, rng)
    splits = {
        "train": Boards(*images, images=1 + config.augmentations),
        "test": Boards(*test),
    }
    files = [Path(name).name for name in (*config.train_csv, *config.test_csv)]
    source = ", ".join(files) or config.source
    write_sudoku(splits, out, {"seed": config.seed, "source": source})


def _read_split(
    config: SudokuExtreme, split: str, out: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Return questions and answers of all files of a split, in order."""
    local = config.train_csv if split == "train" else config.test_csv
    paths = [Path(name) for name in local] or [_locate(config, split, out)]
    tables = [read_csv(path, config.min_difficulty) for path in paths]
    questions, answers = (
        np.concatenate(boards) for boards in zip(*tables, strict=True)
    )
    if not len(questions):
        raise ValueError(
            f"A split must have a puzzle: {', '.join(map(str, paths))} have none rated "
            f"{config.min_difficulty} or more. Lower `--min-difficulty`."
        )
    return questions, answers


def _locate(config: SudokuExtreme, split: str, out: Path) -> Path:
    """Return the CSV file of a split in the source folder, or from the hub."""
    folder = Path(config.source)
    if folder.is_dir():
        for name in (f"{split}.csv", f"{split}.csv.gz"):
            if (folder / name).is_file():
                return folder / name
        raise ValueError(
            f"A source folder must hold `{split}.csv` or `{split}.csv.gz`: {folder} "
            "has neither. Add the file, or name it with `--train-csv` and `--test-csv`."
        )
    try:
        from huggingface_hub import hf_hub_download

        file = f"{split}.csv"
        return Path(hf_hub_download(config.source, file, repo_type="dataset"))
    except Exception as error:
        raise ValueError(
            f"`{split}.csv` must come from the Hugging Face dataset {config.source!r}: "
            f"it could not be downloaded ({type(error).__name__}: {error}). With the "
            f"CSV files at hand, run\n  {_local_command(config, out)}"
        ) from error


def _local_command(config: SudokuExtreme, out: Path) -> str:
    """Return the command that builds the same dataset from local files."""
    words = ["python", "-m", "data.prepare", "sudoku", "--out", str(out)]
    words += ["--train-csv", "train.csv", "--test-csv", "test.csv"]
    default = SudokuExtreme()
    for name in ("subsample", "augmentations", "min_difficulty", "seed"):
        value = getattr(config, name)
        if value != getattr(default, name):
            words += ["--" + name.replace("_", "-"), str(value)]
    return shlex.join(words)
