import random

import numpy as np
import pytest

from configs import UserError
from data.puzzles import sudoku
from data.puzzles.board import BOXES
from data.puzzles.kinds import kind_of, read_numbers, read_sudoku
from data.puzzles.render import numbers
from data.puzzles.solver import BoundedSearch, Search, solutions_known

SOLVED = "1234341221434321"


def tokens(board: str) -> np.ndarray:
    return read_sudoku(board, BOXES[4])[0].tokens


# -- rules -----------------------------------------------------------------------------


def slow_faults(inputs: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """By the definition, a cell at a time."""
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
def test_faults_are_those_of_the_definition(size: int) -> None:
    """And there are none exactly where `is_solution` says so."""
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
    inputs, answers = np.stack(inputs), np.stack(answers)
    found = sudoku.faults(inputs, answers)
    for row, question, answer in zip(found, inputs, answers, strict=True):
        np.testing.assert_array_equal(row, slow_faults(question, answer))
    np.testing.assert_array_equal(
        ~found.any(axis=1), sudoku.is_solution(inputs, answers)
    )
    assert not found[:2].any()
    assert found[2:].any(axis=1).sum() >= 3


def test_a_changed_given_is_a_fault_even_in_a_solved_grid() -> None:
    other = tokens("2143432112343412")
    given = tokens("1...............")
    found = sudoku.faults(given[None], other[None])[0]
    np.testing.assert_array_equal(found, np.arange(16) == 0)


@pytest.mark.parametrize(
    ("board", "remark"),
    [
        (SOLVED, ""),
        ("12343412........", "more than one solution"),
        ("11..............", "its givens contradict each other"),
        ("123....4........", "no solution"),
        ("................", "more than one solution"),
    ],
)
def test_remarks(board: str, remark: str) -> None:
    said = kind_of("sudoku", 16, 6).remark(tokens(board))
    assert remark in said
    assert bool(said) == bool(remark)


def test_a_search_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than keep a person waiting."""
    monkeypatch.setattr(BoundedSearch, "patience", 3)
    assert solutions_known([0] * 81, BOXES[9]) is None
    assert kind_of("sudoku", 81, 11).remark(np.ones(81, np.int32)) == ""


# -- reading ---------------------------------------------------------------------------


def test_sudoku_of_many_lines() -> None:
    """Both signs for an empty cell; blank lines and blanks around do not matter."""
    found = read_sudoku("12..34..21..43..\n\n  0000000000000004 \r\n", BOXES[4])
    assert [question.name for question in found] == [
        "12..34..21..43..",
        "0000000000000004",
    ]
    assert found[0].tokens.tolist() == [2, 3, 1, 1, 4, 5, 1, 1, 3, 2, 1, 1, 5, 4, 1, 1]
    assert found[1].tokens.tolist() == [1] * 15 + [5]
    kind = kind_of("sudoku", 16, 6)
    assert kind.show(found[0].tokens) == "12..34..21..43.."
    assert kind.show(np.array([0, 99, 2])) == "??1"


@pytest.mark.parametrize(
    ("text", "size", "message"),
    [
        ("1" * 80, 9, "must have 81 characters: line 1 has 80"),
        (SOLVED + "\n1", 4, "must have 16 characters: line 2 has 1"),
        ("." * 80 + "x", 9, "1 to 9.*'x' in row 9, column 9"),
        ("....7..........." + "." * 20, 6, "1 to 6.*'7' in row 1, column 5"),
        ("5" + "." * 15, 4, "1 to 4.*'5' in row 1, column 1"),
        ("²" + "." * 80, 9, "'²' in row 1, column 1"),
    ],
)
def test_no_sudoku(text: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_sudoku(text, BOXES[size])


def test_other_kinds_are_numbers() -> None:
    kind = kind_of("numbers", 4, 12)
    (found,) = kind.read("1 2, 3 11\n")
    assert found.tokens.tolist() == [1, 2, 3, 11]
    assert (kind.columns, kind.render) == (2, numbers)
    assert kind.faults is None
    assert kind_of("sudoku", 25, 7).columns == 5, "a size without boxes"
    for text, message in {
        "1 2 3": "must have 4 tokens: line 1 has 3",
        "1 2 3 12": "below 12: line 1 has '12'",
        "1 2 3 -1": "'-1'",
        "1 2 3 a": "'a'",
    }.items():
        with pytest.raises(UserError, match=message):
            read_numbers(text, 4, 12)
