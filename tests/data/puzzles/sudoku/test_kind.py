import random

import numpy as np
import pytest

from configs import UserError
from data.puzzles.kinds import kind_of
from data.puzzles.sudoku.board import BOXES
from data.puzzles.sudoku.kind import faults
from data.puzzles.sudoku.solver import BoundedSearch, Search, solutions_known

SOLVED = "1234341221434321"
KINDS = {size: kind_of("sudoku", size**2, size + 2) for size in BOXES}


def tokens(board):
    return KINDS[4].read(board)[0].tokens


# -- rules -----------------------------------------------------------------------------


def slow_faults(inputs, answers):
    """The definition, a cell at a time."""
    size = int(len(inputs) ** 0.5)
    box = BOXES[size]
    wrong = np.zeros(len(inputs), bool)
    for i in range(len(inputs)):
        r, c = divmod(i, size)
        digit = 2 <= answers[i] <= size + 1
        same = [
            j
            for j in range(len(inputs))
            if j != i
            and answers[j] == answers[i]
            and (
                j // size == r
                or j % size == c
                or (j // size // box.rows, j % size // box.columns)
                == (r // box.rows, c // box.columns)
            )
        ]
        kept = inputs[i] in (1, answers[i])
        wrong[i] = not digit or not kept or bool(same)
    return wrong


@pytest.mark.parametrize("size", [4, 6, 9])
def test_faults_are_those_of_the_definition(size):
    rng = np.random.default_rng(size)
    empty = Search([0] * size**2, BOXES[size])
    grid = np.array(next(empty.solutions(random.Random(size)))) + 1
    inputs, answers = [], []
    for changes in (0, 0, 1, 2, 5, 40):
        question = np.where(rng.random(grid.size) < 0.5, 1, grid)
        answer = grid.copy()
        at = rng.integers(0, grid.size, changes)
        answer[at] = rng.integers(0, size + 4, changes)
        inputs.append(question)
        answers.append(answer)
    found = faults(np.stack(inputs), np.stack(answers))
    for row, question, answer in zip(found, inputs, answers, strict=True):
        np.testing.assert_array_equal(row, slow_faults(question, answer))
    solved = KINDS[size].is_solution(np.stack(inputs), np.stack(answers))
    np.testing.assert_array_equal(solved, ~found.any(axis=1))
    assert not found[:2].any()
    assert found[2:].any(axis=1).sum() >= 3


def test_a_changed_given_is_a_fault_even_in_a_solved_grid():
    other, given = tokens("2143432112343412"), tokens("1...............")
    found = faults(given[None], other[None])[0]
    np.testing.assert_array_equal(found, np.arange(16) == 0)


def test_tokens_that_are_no_digits_are_faults():
    answer = tokens(SOLVED)
    for token in (-5, 0, 1, 6, 300):
        wrong = np.where(np.arange(16) == 15, token, answer)[None]
        assert faults(np.ones((1, 16), int), wrong)[0, 15]


@pytest.mark.parametrize(
    ("board", "remark"),
    [
        (SOLVED, ""),
        ("12343412........", "more than one"),
        ("11..............", "contradict"),
        ("123....4........", "no solution"),
        ("................", "more than one"),
    ],
)
def test_remarks(board, remark):
    said = KINDS[4].remark(tokens(board))
    assert remark in said
    assert bool(said) == bool(remark)


def test_a_long_search_gives_up(monkeypatch):
    monkeypatch.setattr(BoundedSearch, "patience", 3)
    assert solutions_known([0] * 81, BOXES[9]) is None
    assert KINDS[9].remark(np.ones(81, np.int32)) == ""


# -- text ------------------------------------------------------------------------------


def test_reading_many_lines():
    """Both signs for an empty cell; blank lines and blanks around do not matter."""
    kind = KINDS[4]
    first, last = kind.read("12..34..21..43..\n\n  0000000000000004 \r\n")
    assert (first.name, last.name) == ("12..34..21..43..", "0000000000000004")
    assert first.tokens.tolist() == [2, 3, 1, 1, 4, 5, 1, 1, 3, 2, 1, 1, 5, 4, 1, 1]
    assert last.tokens.tolist() == [1] * 15 + [5]
    assert kind.show(first.tokens) == "12..34..21..43.."
    assert kind.show(np.array([0, 99, 2])) == "??1"


@pytest.mark.parametrize(
    ("text", "size", "value"),
    [
        ("1" * 80, 9, "line 1 has 80"),
        (SOLVED + "\n1", 4, "line 2 has 1"),
        ("." * 80 + "x", 9, "'x' in row 9, column 9"),
        ("....7..........." + "." * 20, 6, "'7' in row 1, column 5"),
        ("5" + "." * 15, 4, "'5' in row 1, column 1"),
        ("²" + "." * 80, 9, "'²' in row 1, column 1"),
    ],
)
def test_text_that_is_no_sudoku(text, size, value):
    with pytest.raises(UserError, match=value):
        KINDS[size].read(text)


def render(values):
    return KINDS[int(len(values) ** 0.5)].render(values, np.zeros(len(values), bool))


def test_drawing_boxes():
    assert render(tokens("." + SOLVED[1:15] + ".")) == [
        ". 2 | 3 4",
        "3 4 | 1 2",
        "----+-----",
        "2 1 | 4 3",
        "4 3 | 2 .",
    ]
    wide, large = render(np.full(36, 3)), render(np.full(81, 10))
    assert (wide[0], large[0]) == ("2 2 2 | 2 2 2", "9 9 9 | 9 9 9 | 9 9 9")
    assert [i for i, line in enumerate(wide) if "+" in line] == [2, 5]
    assert [i for i, line in enumerate(large) if "+" in line] == [3, 7]
    assert render(np.array([0, 9, *tokens(SOLVED)[2:]]))[0] == "? ? | 3 4"
