import json
import random

import numpy as np
import pytest

from configs import UserError
from data.puzzles.arc import grid as arc_grid
from data.puzzles.asking import (
    Question,
    read_arc,
    read_mazes,
    read_numbers,
    read_sudoku,
)
from data.puzzles.kinds import kind_of
from data.puzzles.maze import kind as maze
from data.puzzles.render import numbers
from data.puzzles.sudoku import extreme as sudoku
from data.puzzles.sudoku.board import BOXES
from data.puzzles.sudoku.solver import BoundedSearch, Search, solutions_known

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


# -- mazes -----------------------------------------------------------------------------

MAZE = """\
####
#S #
#  #
##G#"""


def test_mazes_in_lines_and_in_blocks() -> None:
    """A maze a line, as in Maze-Hard's files, or one under another."""
    line = MAZE.replace("\n", "")
    dots = MAZE.replace(" ", ".")
    for text in (f"{line}\n{line}\n", f"{MAZE}\n\n\n{dots}\n"):
        first, second = read_mazes(text, 16, "file")
        assert (first.name, second.name) == ("file 1", "file 2")
        assert_tokens(first, second)
        assert kind_of("maze", 16, 6).show(first.tokens) == line
    (one,) = read_mazes(MAZE, 16)
    assert one.name == "maze"


def assert_tokens(first: Question, second: Question) -> None:
    np.testing.assert_array_equal(first.tokens, second.tokens)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MAZE.replace("G", " "), "m: A maze must have one goal, `G`: got 0"),
        (MAZE.replace("S", "x"), "m: .*got 'x'"),
        (MAZE, "m: A maze of this model must be 5 by 5 cells: got 16"),
        (f"{MAZE}\n\n{MAZE}G", "m 1: A maze of this model must be 5 by 5"),
    ],
)
def test_no_maze(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_mazes(text, 25, "m")


def test_faults_of_a_maze_are_none_in_a_solution_alone() -> None:
    """Whatever is changed; a detour has no fault of its own, so all of it is one."""
    kind = kind_of("maze", 25, 6)
    (asked,) = kind.read("S    \n###  \n     \n     \n    G")
    rng = np.random.default_rng(0)
    base = np.tile(asked.tokens, (400, 1))
    answers = base.copy()
    right = [1, 2, 3, 8, 13, 18, 23]
    for answer in answers:
        answer[right] = maze.PATH
        changes = rng.integers(0, 4)
        answer[rng.integers(0, 25, changes)] = rng.integers(0, 7, changes)
    answers[0, :] = asked.tokens
    detour = [1, 2, 3, 4, 9, 14, 13, 12, 17, 18, 19]
    answers[1, :] = asked.tokens
    answers[1, detour] = maze.PATH
    assert kind.faults is not None
    found = kind.faults(base, answers)
    solved = maze.is_solution(base, answers)
    np.testing.assert_array_equal(~found.any(axis=1), solved)
    assert 0 < solved.sum() < 400
    assert np.flatnonzero(found[0]).tolist() == [0, 24], "no path leaves the ends"
    assert found[1, detour].any()


def test_a_longer_way_is_wrong_all_along() -> None:
    kind = kind_of("maze", 16, 6)
    (asked,) = kind.read("S  G\n    \n    \n    ")
    answer = asked.tokens.copy()
    way = [4, 5, 6, 7]
    answer[way] = maze.PATH
    assert kind.faults is not None
    wrong = kind.faults(asked.tokens[None], answer[None])[0]
    assert np.flatnonzero(wrong).tolist() == [0, 3, *way]


def test_a_maze_without_a_way() -> None:
    kind = kind_of("maze", 16, 6)
    shut, open_ = (kind.read(f"S #.\n  {sign}.\n  #.\n  #G")[0] for sign in "#.")
    assert kind.remark(shut.tokens) == "no answer is right: no way leads from S to G"
    assert kind.remark(open_.tokens) == ""


# -- ARC -------------------------------------------------------------------------------

TASK = {
    "train": [],
    "test": [{"input": [[1, 2], [3, 0]], "output": [[9]]}, {"input": [[5]]}],
}


def test_test_inputs_of_a_task_and_of_many() -> None:
    first, second = read_arc(json.dumps(TASK), "0a1b")
    assert (first.name, first.identifier) == ("0a1b, test[0]", "0a1b")
    assert arc_grid.to_grid(first.tokens).tolist() == [[1, 2], [3, 0]]
    assert first.answer is not None
    assert arc_grid.to_grid(first.answer).tolist() == [[9]]
    assert second.answer is None
    many = read_arc(json.dumps({"a": TASK, "b": TASK}), "file")
    assert [question.identifier for question in many] == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON: t is not"),
        ("[1]", r"must be a JSON object with `train` and `test`: t is \[1\]"),
        ('{"a": 3}', "a list `test` of objects: a has none"),
        ('{"test": [3]}', "a list `test` of objects: t has none"),
        ('{"test": [{"output": [[1]]}]}', r"t, test\[0\]: a pair must have an input"),
        ('{"test": [{"input": [[1, 2], [3]]}]}', r"t, test\[0\], input.*rows of 1 and"),
        ('{"test": [{"input": [[10]]}]}', "the colour 10"),
        ('{"test": [{"input": [[1]], "output": [[]]}]}', "output: a grid.*0 columns"),
    ],
)
def test_no_task(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_arc(text, "t")


def test_an_arc_answer_is_right_as_it_is_cropped() -> None:
    """As in the official evaluation; else all that differs is wrong."""
    kind = kind_of("arc", 900, 12)
    known = arc_grid.to_tokens(np.array([[1, 2], [3, 4]], np.uint8)).astype(np.int32)
    beyond, other = known.copy(), known.copy()
    beyond[450] = 7
    other[[0, 450]] = 7
    wrong = kind.errors(np.stack([known, beyond, other]), known)
    assert [np.flatnonzero(row).tolist() for row in wrong] == [[], [], [0, 450]]
    assert len(set(kind.fills)) == len(kind.fills) == 12
