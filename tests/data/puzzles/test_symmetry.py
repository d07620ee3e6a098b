"""Symmetries of every kind of puzzle."""

from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from configs import GeneratedMaze, GeneratedSudoku, UserError
from data.build import prepare
from data.puzzles.dataset import IGNORE, PuzzleDataset
from data.puzzles.kinds import kind_of
from data.puzzles.maze.generate import draw
from data.puzzles.symmetry import Symmetry, views
from data.puzzles.writer import Examples, write_puzzles
from tests.data.puzzles.sudoku.test_symmetries import board


def solved(name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return questions and answers of a kind, as tokens."""
    if name == "maze":
        return draw(GeneratedMaze(size=size, least_path=4), 0)
    answers = np.repeat(board(size) + 1, 3, axis=0)
    given = np.random.default_rng(0).random(answers.shape) < 0.5
    return np.where(given, answers, 1), answers


@pytest.mark.parametrize(
    ("name", "size"), [("sudoku", 4), ("sudoku", 6), ("sudoku", 9), ("maze", 5)]
)
def test_solutions_stay_solutions_and_are_turned_back(name: str, size: int) -> None:
    questions, answers = solved(name, size)
    kind = kind_of(name, size**2, size + 2 if name == "sudoku" else 6)
    assert kind.symmetries is not None
    for symmetry in islice(kind.symmetries(np.random.default_rng(0)), 9):
        seen = [symmetry.apply(boards) for boards in (questions, answers)]
        solution = kind.is_solution(*seen)
        assert solution is not None
        assert solution.all()
        for before, after in zip((questions, answers), seen, strict=True):
            np.testing.assert_array_equal(symmetry.inverse().apply(after), before)


@pytest.mark.parametrize(("name", "vocab"), [("sudoku", 11), ("maze", 6)])
def test_the_first_view_is_plain_and_more_change_none(name: str, vocab: int) -> None:
    kind = kind_of(name, 81, vocab)
    assert kind.symmetries is not None
    few, many, other = (
        views(kind.symmetries(np.random.default_rng(seed)), number)
        for seed, number in ((0, 3), (0, 8), (1, 8))
    )
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:3])
    np.testing.assert_array_equal(many.cells[0], np.arange(81))
    np.testing.assert_array_equal(many.tokens[0], np.arange(vocab))
    assert len(np.unique(np.concatenate(many, axis=1), axis=0)) == 8
    assert (many.cells != other.cells).any()


def test_training_on_fresh_symmetries(tmp_path: Path) -> None:
    """A function of the step, the same on any mesh; solutions stay ones."""
    folder = tmp_path / "data"
    prepare(GeneratedSudoku(size=4, train=8, test=1, augmentations=0), folder)
    load = partial(PuzzleDataset, [folder], "train", batch_size=8)
    plain, fresh, seen = load(), load(fresh=True), set()
    half = load(fresh=True, rows=np.array([5, 2]))
    for step in range(3):
        stored, turned = plain.batch(step), fresh.batch(step)
        solution = fresh.kind.is_solution(turned.inputs, turned.labels)
        assert solution is not None
        assert solution.all()
        before, after = ((puzzle.inputs != 1).sum(1) for puzzle in (stored, turned))
        np.testing.assert_array_equal(before, after)
        np.testing.assert_array_equal(half.batch(step).inputs, turned.inputs[[5, 2]])
        np.testing.assert_array_equal(fresh.batch(step).labels, turned.labels)
        seen |= {board.tobytes() for board in turned.inputs}
    assert len(seen) > 20
    batch = plain.batch(0)
    batch.labels[:, 3] = IGNORE
    before = batch.labels.copy()
    fresh._turn(batch, 0)
    np.testing.assert_array_equal((batch.labels == IGNORE).sum(1), 1)
    np.testing.assert_array_equal(batch.inputs, fresh.batch(0).inputs)
    assert (batch.labels != before).any()


def test_arc_has_no_fresh_symmetries(tmp_path: Path) -> None:
    grids = np.ones((2, 1, 900), np.uint8)
    splits = {"train": Examples(*grids), "test": Examples(*(grids + 1))}
    write_puzzles(splits, tmp_path, kind="arc", vocab_size=12, extra={"seed": 0})
    with pytest.raises(UserError, match="`augment` must be `stored`"):
        PuzzleDataset([tmp_path], "train", batch_size=1, fresh=True)


def test_a_symmetry_written_out() -> None:
    turned = Symmetry(np.array([2, 0, 1]), np.array([0, 2, 1]))
    np.testing.assert_array_equal(turned.apply(np.array([[0, 1, 2]])), [[1, 0, 2]])


def test_views_need_a_kind_with_symmetries() -> None:
    assert kind_of("sudoku", 36, 8).views(4, seed=0).cells.shape == (4, 36)
    with pytest.raises(UserError, match=r"Attempts under symmetries need.*ARC"):
        kind_of("arc", 900, 12).views(4, seed=0)
