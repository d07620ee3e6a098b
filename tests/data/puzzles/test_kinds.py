import numpy as np
import pytest

from configs import UserError
from data.puzzles.kind import render_numbers
from data.puzzles.kinds import KINDS, kind_of

SOLVED = np.array([int(d) + 1 for d in "1234341221434321"])


def name_of(kind):
    names = {(2, 2): "sudoku", (2, 3): "sudoku", (3, 3): "sudoku"}
    return names.get(kind.box) or ("maze" if kind.key else "numbers")


def test_a_kind_without_a_name_is_known_by_its_sizes():
    sizes = {(81, 11): "sudoku", (16, 6): "sudoku", (36, 8): "sudoku"}
    sizes |= {
        (900, 6): "maze",
        (36, 6): "maze",
        (35, 6): "numbers",
        (81, 13): "numbers",
    }
    assert {size: name_of(kind_of(None, *size)) for size in sizes} == sizes
    assert kind_of(None, 900, 12).blank == 0


def test_other_names_and_sizes_are_numbers():
    assert name_of(kind_of("chess", 16, 6)) == "numbers"
    assert name_of(kind_of("sudoku", 25, 7)) == "numbers"
    assert kind_of("chess", 16, 6).is_solution(SOLVED[None], SOLVED[None]) is None


@pytest.mark.parametrize(
    ("name", "seq", "vocab"),
    [
        *(("sudoku", 256, 18), ("sudoku", 81, 12), ("sudoku", 80, 11)),
        *(("maze", 24, 6), ("maze", 70 * 70, 6), ("arc", 99, 12)),
    ],
)
def test_rules_are_of_known_sizes(name, seq, vocab):
    kind, board = kind_of(name, seq, vocab), np.ones(seq, np.int64)
    assert kind.is_solution(board[None], board[None]) is None
    assert kind.remark(board) == ""
    assert kind.draw(board, board, board).startswith("puzzle")


def test_a_kind_of_ones_own_is_a_line(monkeypatch):
    mine = kind_of("numbers", 16, 6)
    monkeypatch.setitem(KINDS, "mine", lambda seq, vocab: mine if seq == 16 else None)
    assert kind_of("mine", 16, 6) is mine
    assert kind_of("mine", 9, 6) is not mine
    assert name_of(kind_of(None, 16, 6)) == "sudoku"


def test_numbers():
    kind = kind_of("numbers", 4, 12)
    (found,) = kind.read("1 2, 3 11\n")
    assert found.tokens.tolist() == [1, 2, 3, 11]
    assert (kind.columns, kind.faults) == (2, None)
    for text, value in {
        "1 2 3": "line 1 has 3",
        "1 2 3 12": "line 1 has '12'",
        "1 2 3 -1": "'-1'",
        "1 2 3 a": "'a'",
    }.items():
        with pytest.raises(UserError, match=value):
            kind.read(text)
    right = np.zeros(25, bool)
    assert render_numbers(np.arange(25), right)[1] == " 5  6  7  8  9"
    assert render_numbers(np.arange(5), right[:5]) == ["0 1 2 3 4"]
    assert render_numbers(np.arange(2), np.array([False, True])) == ["0 1!"]


def test_puzzle_and_prediction_side_by_side():
    kind, inputs, prediction = kind_of("sudoku", 16, 6), SOLVED.copy(), SOLVED.copy()
    inputs[1] = 1
    prediction[1] = 4
    labels = np.where(np.arange(16) == 3, -100, SOLVED)
    prediction[3] = 1  # is not scored
    lines = kind.draw(inputs, prediction, labels).splitlines()
    assert lines[0] == "puzzle        prediction (1 wrong)"
    assert lines[1] == "1 . | 3 4     1 3!| 3 ."
    assert lines[2] == "3 4 | 1 2     3 4 | 1 2"
