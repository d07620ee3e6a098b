"""Build a dataset of generated Sudoku, without a download.

No training puzzle or augmentation has the solution of a test puzzle.
"""

import random
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from configs import GeneratedSudoku
from data.folder import check_vacant, require_memory
from data.puzzles.sudoku.board import BOXES, Box
from data.puzzles.sudoku.extreme import check_memory, to_tokens
from data.puzzles.sudoku.solver import Search, carve
from data.puzzles.sudoku.symmetries import augment
from data.puzzles.writer import write_puzzles


def build(config: GeneratedSudoku, out: Path) -> None:
    """Build the dataset in `out`; only training puzzles are augmented.

    Raises:
        UserError: if `out` is not vacant, or the puzzles do not fit into memory.
    """
    check_vacant(out)
    box = BOXES[config.size]
    require_memory(
        (config.train + config.test) * config.size**2 * 32,  # measured: 26 a cell
        f"{config.train:,} and {config.test:,} puzzles",
        "Use a smaller `--train` and `--test`.",
    )
    check_memory(config.train, config.augmentations, box)
    rng = random.Random(config.seed)
    train_grids, test_grids = _draw_grids(config, box, rng)
    train = _carve_all(train_grids, config.train, config, rng)
    test = _carve_all(test_grids, config.test, config, rng)
    augmented = augment(
        *train, config.augmentations, box, np.random.default_rng(config.seed)
    )
    per_group = 1 + config.augmentations
    _undo_leaks(*augmented, test[1], per_group)
    splits = {
        "train": to_tokens(*augmented, per_group=per_group),
        "test": to_tokens(*test),
    }
    source = f"generated {config.size}x{config.size}"
    extra = {"seed": config.seed, "source": source}
    write_puzzles(splits, out, kind="sudoku", vocab_size=box.size + 2, extra=extra)


def _draw_grids(
    config: GeneratedSudoku, box: Box, rng: random.Random
) -> tuple[list[list[int]], list[list[int]]]:
    """Draw different solved grids for training and for testing.

    There is one grid for each puzzle. Of size 4 there are only 288, which are divided
    in proportion for more puzzles.
    """
    empty = [0] * box.size**2
    total = config.train + config.test
    if config.size == 4:
        grids = list(Search(empty, box).solutions())
        rng.shuffle(grids)
        grids = grids[:total]
    else:
        different: dict[bytes, list[int]] = {}
        while len(different) < total:
            grid = next(Search(empty, box).solutions(rng))
            different[bytes(grid)] = grid
        grids = list(different.values())
    share = round(len(grids) * config.train / total)
    share = min(max(share, 1), len(grids) - 1)
    return grids[:share], grids[share:]


def _carve_all(
    grids: list[list[int]], count: int, config: GeneratedSudoku, rng: random.Random
) -> tuple[UInt8[np.ndarray, "puzzles seq"], UInt8[np.ndarray, "puzzles seq"]]:
    """Return `count` puzzles and their solutions, using the grids in turn."""
    answers = [grids[i % len(grids)] for i in range(count)]
    blanks = round(config.blanks * config.size**2)
    box = BOXES[config.size]
    questions = [carve(answer, box, blanks, rng) for answer in answers]
    return np.array(questions, np.uint8), np.array(answers, np.uint8)


def _undo_leaks(
    questions: UInt8[np.ndarray, "boards seq"],
    answers: UInt8[np.ndarray, "boards seq"],
    test_answers: UInt8[np.ndarray, "tests seq"],
    per_group: int,
) -> None:
    """Replace augmentations whose solution is a test grid by the puzzle itself."""
    leaks = np.flatnonzero(np.isin(_as_keys(answers), _as_keys(test_answers)))
    originals = leaks // per_group * per_group
    questions[leaks] = questions[originals]
    answers[leaks] = answers[originals]


def _as_keys(boards: UInt8[np.ndarray, "boards seq"]) -> np.ndarray:
    """Return each full board as one string of bytes, which NumPy can compare."""
    return np.ascontiguousarray(boards).view(f"S{boards.shape[1]}").reshape(-1)
