import numpy as np
import pytest

from data.puzzles.sudoku.board import BOXES, is_solved
from data.puzzles.sudoku.symmetries import augment, draw_symmetries

SOLVED = {
    4: "1234341221434321",
    6: "123456456123231564564231312645645312",
    9: "769341852142895367538267194273689541954123678"
    "681574923316452789495738216827916435",
}


def board(size):
    return np.array([list(map(int, SOLVED[size]))], dtype=np.uint8)


@pytest.mark.parametrize("size", [4, 6, 9])
def test_images_are_solved_and_keep_the_givens(size):
    rng = np.random.default_rng(0)
    answers = np.repeat(board(size), 3, axis=0)
    questions = np.where(rng.random(answers.shape) < 0.5, answers, 0).astype(np.uint8)
    many, solved = augment(questions, answers, 200, BOXES[size], rng)
    assert many.shape == solved.shape == (3 * 201, size * size)
    assert is_solved(solved, BOXES[size]).all()
    np.testing.assert_array_equal(many[::201], questions)
    np.testing.assert_array_equal(solved[::201], answers)
    assert ((many == 0) | (many == solved)).all()
    givens = (many != 0).sum(axis=1).reshape(3, 201)
    assert (givens == givens[:, :1]).all()
    assert len(np.unique(many, axis=0)) > (100 if size == 4 else 590)


def test_every_symmetry_of_4x4_is_drawn():
    # 4! digits, (2! 2!^2)^2 orders of rows and columns, 2 axes: 3,072; this board has
    # one image for each, as its cells can be told apart by their digits' places.
    rng = np.random.default_rng(0)
    lines = draw_symmetries(rng, 2000, BOXES[4])
    rows = {tuple(r) for r in lines.lines[0]}
    assert rows == {(a, b, c, d) for a, b, c, d in rows if {a, b} in ({0, 1}, {2, 3})}
    assert len(rows) == 8
    assert len({tuple(d) for d in lines.digits}) == 24
    assert 900 < lines.transposed.sum() < 1100


def test_boxes_that_are_not_square_are_not_transposed():
    assert not draw_symmetries(np.random.default_rng(0), 99, BOXES[6]).transposed.any()


def test_is_solved_sees_each_kind_of_fault():
    latin = np.array([[(r + c) % 9 + 1 for r in range(9) for c in range(9)]], np.uint8)
    assert not is_solved(latin, BOXES[9]).any()  # rows and columns right, boxes wrong
    swapped = board(9)
    swapped[0, [0, 1]] = swapped[0, [1, 0]]
    assert not is_solved(swapped, BOXES[9]).any()
    assert is_solved(board(9), BOXES[9]).all()
