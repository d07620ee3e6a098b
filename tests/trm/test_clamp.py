"""Clamp and restart, with answers made by hand."""

import numpy as np

from data.puzzles.kinds import kind_of
from trm.clamp import clamp, pin

SUDOKU = kind_of("sudoku", 16, 6)
SOLVED = np.array([list(map(int, "1234341221434321"))]) + 1
ALIKE = np.full(SOLVED.shape, 0.5)


def question(*given: int) -> np.ndarray:
    """Return the puzzle of which these cells are given."""
    asked = np.ones_like(SOLVED)
    asked[0, list(given)] = SOLVED[0, list(given)]
    return asked


def changed(cell: int, digit: int) -> np.ndarray:
    answer = SOLVED.copy()
    answer[0, cell] = digit + 1
    return answer


def sure_of(*cells: int) -> np.ndarray:
    """Return probabilities that fall from cell to cell."""
    sure = ALIKE.copy()
    sure[0, list(cells)] = 0.9 - 0.01 * np.arange(len(cells))
    return sure


def test_the_surest_open_cell_without_a_fault_is_pinned() -> None:
    """Cell 0 is wrong, like another 2 of its row; 4 is given, and 5 is the next."""
    asked, answer = question(4), changed(0, 2)
    board = pin(SUDOKU, asked, asked, answer, sure_of(0, 1, 4, 5, 6))
    np.testing.assert_array_equal(board, question(4, 5))
    again = pin(SUDOKU, asked, board, answer, sure_of(5, 4, 6))
    np.testing.assert_array_equal(again, question(4, 5, 6))


def test_a_broken_rule_at_a_pinned_cell_starts_over() -> None:
    asked, answer = question(4), changed(0, 2)
    for pinned in (1, 0):  # a repeated digit; a pinned cell that was changed
        board = question(4, pinned)
        np.testing.assert_array_equal(pin(SUDOKU, asked, board, answer, ALIKE), asked)
    full = question(*range(16))
    np.testing.assert_array_equal(pin(SUDOKU, asked, full, full, ALIKE), asked)


def test_only_unsolved_puzzles_are_asked_again() -> None:
    """The second puzzle is solved when cell 5 is pinned, the third never."""
    asked = np.concatenate([question(4)] * 3)
    wrong = changed(0, 2)
    calls = []

    def ask(number, some, boards):
        calls.append((number, some.tolist()))
        answers = [
            SOLVED[0] if i == 0 or (i == 1 and board[5] != 1) else wrong[0]
            for i, board in zip(some, boards, strict=True)
        ]
        exact = np.array([(answer == SOLVED[0]).all() for answer in answers])
        sure = np.repeat(sure_of(5), len(some), axis=0)
        found = {"predictions": np.array(answers), "exact": exact, "sure": sure}
        return found, {"work/steps": (4 * len(some), 1)}

    first = ask(0, np.arange(3), asked)
    sums = clamp(ask, SUDOKU, asked, first, 4)
    assert calls == [(0, [0, 1, 2]), (1, [1, 2]), (2, [2]), (3, [2])]
    expected = {
        "clamp/by_the_rules": [1, 2, 2, 2],
        "clamp/exact_accuracy": [1, 2, 2, 2],
        "clamp/steps": [12, 20, 24, 28],
    }
    assert {name: (row.tolist(), count) for name, (row, count) in sums.items()} == {
        name: (row, 3) for name, row in expected.items()
    }
