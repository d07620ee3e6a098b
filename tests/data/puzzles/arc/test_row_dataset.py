"""Rows of tokens from a dataset."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs import ARC, GeneratedSudoku, UserError
from data.build import prepare
from data.puzzles.arc.augment import colors_of_outputs
from data.puzzles.arc.build import build
from data.puzzles.arc.grid import parse_name
from data.puzzles.arc.row_dataset import RowDataset
from data.puzzles.arc.rows import (
    END,
    FIRST_TASK,
    OUTPUTS,
    SEPARATOR,
    answer_of,
    cut_out,
)
from data.puzzles.arc.tasks import Pair, Task, read_json, read_subsets
from data.puzzles.symmetry import turn
from data.text.dataset import IGNORE
from tests.arc_golden import RAW

CONFIG = ARC(
    source=str(RAW),
    subsets=("training", "evaluation"),
    augmentations=5,
    colors="inputs",
    processes=1,
)
LENGTH = 1863


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rows") / "dataset"
    build(CONFIG, out)
    return out


def opened(folder: Path, split: str, **options: int) -> RowDataset:
    return RowDataset([folder], split, **{"length": LENGTH, "batch_size": 8, **options})


def pairs_of(folder: Path, split: str) -> dict[str, set[str]]:
    """Pairs of every puzzle, from the tasks themselves: augmented here."""
    tasks = {task.name: task for part in read_subsets(CONFIG).values() for task in part}
    tested = read_json(folder / "test_puzzles.json").keys()
    found: dict[str, set[str]] = {}
    for number, name in enumerate(read_json(folder / "identifiers.json")[1:], 1):
        task, symmetry, colors = parse_name(name)
        own = tasks[task].train
        if task not in tested:
            own = [*own, *tasks[task].test]
        if split == "test":
            own = tasks[task].test if task in tested else []
        found[str(number)] = {
            str([colors[turn(grid, symmetry)].tolist() for grid in pair])
            for pair in own
        }
    return found


@pytest.mark.parametrize("split", ["train", "test"])
def test_questions_are_the_augmented_pairs(folder: Path, split: str) -> None:
    expected = pairs_of(folder, split)
    found: dict[str, set[str]] = {number: set() for number in expected}
    for question in opened(folder, split).questions():
        pair = str([question.given.tolist(), question.wanted.tolist()])
        found[str(question.identifier)].add(pair)
    assert found == expected


def test_a_batch(folder: Path) -> None:
    """Targets are the next tokens of the outputs, and nothing else."""
    data = opened(folder, "train")
    assert data.vocab_size == FIRST_TASK + 1 + 10
    inputs, targets = data.batch(3)
    assert inputs.shape == targets.shape == (8, LENGTH)
    np.testing.assert_array_equal(inputs, data.batch(3).inputs)
    puzzles = data.puzzles.batch(3)
    names = read_json(folder / "identifiers.json")
    for i, (row, wanted) in enumerate(zip(inputs, targets, strict=True)):
        scored = np.flatnonzero(wanted != IGNORE)
        assert scored.tolist() == [*range(scored[0], scored[-1] + 1)]
        np.testing.assert_array_equal(row[scored[1:]], wanted[scored[:-1]])
        answer = answer_of(wanted[scored])
        assert answer is not None
        np.testing.assert_array_equal(answer, cut_out(puzzles.labels[i]))
        assert (row[scored[-1] + 1 :] == END).all()
        assert row[scored[0]] == SEPARATOR
        _, symmetry, _ = parse_name(names[puzzles.puzzle_id[i]])
        assert row[1] == OUTPUTS + symmetry


def test_the_first_rows_are_of_all_tasks(folder: Path) -> None:
    inputs, targets = opened(folder, "test", batch_size=40).first()
    assert len(set(inputs[:5, 0].tolist())) == 5
    real = (targets != IGNORE).any(axis=1)
    assert real.sum() == 30  # five tasks of six augmentations; the rest is padding
    assert (inputs[~real] == END).all()


def test_votes_for_the_solutions_are_right(folder: Path) -> None:
    data = opened(folder, "test")
    assert data.votes().tasks == read_json(folder / "test_puzzles.json")


def test_colors_of_outputs() -> None:
    grid = lambda *cells: np.array([cells], np.uint8)
    task = Task("a", [Pair(grid(0, 1), grid(5))], [Pair(grid(2), grid(7))])
    assert colors_of_outputs(task, tested=True) == {0, 5}
    assert colors_of_outputs(task, tested=False) == {0, 5, 7}


def test_colors_of_outputs_stay(folder: Path) -> None:
    tasks = {task.name: task for part in read_subsets(CONFIG).values() for task in part}
    tested, moved = read_json(folder / "test_puzzles.json"), 0
    for name in read_json(folder / "identifiers.json")[1:]:
        task, _, colors = parse_name(name)
        fixed = colors_of_outputs(tasks[task], tested=task in tested)
        assert all(colors[color] == color for color in fixed)
        assert sorted(colors.tolist()) == list(range(10))
        moved += (colors != np.arange(10)).sum()
    assert moved > 0


def test_small_canvases_have_short_rows(tmp_path: Path) -> None:
    config = replace(CONFIG, test=("training",), subsets=("training",), side=11)
    build(config, tmp_path / "small")
    opened(tmp_path / "small", "train", length=267)
    with pytest.raises(UserError, match="`block_size` must be at least 267"):
        opened(tmp_path / "small", "train", length=266)


def test_other_puzzles_have_no_rows(tmp_path: Path) -> None:
    prepare(GeneratedSudoku(size=4, train=8, test=4), tmp_path / "sudoku")
    with pytest.raises(UserError, match="is of sudoku"):
        RowDataset([tmp_path / "sudoku"], "train", length=LENGTH, batch_size=2)
