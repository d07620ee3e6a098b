import numpy as np

from data.puzzles.render import guess_kind, numbers, render_solution
from data.puzzles.sudoku import extreme as sudoku


def render(tokens):
    return "\n".join(sudoku.render(tokens, np.zeros(len(tokens), bool)))


SOLVED = np.array([int(d) + 1 for d in "1234341221434321"])


def test_a_4x4_board_has_its_boxes():
    tokens = SOLVED.copy()
    tokens[[0, 15]] = 1
    assert render(tokens).splitlines() == [
        ". 2 | 3 4",
        "3 4 | 1 2",
        "----+-----",
        "2 1 | 4 3",
        "4 3 | 2 .",
    ]


def test_boxes_of_6x6_are_two_rows_by_three_columns():
    lines = render(np.full(36, 3)).splitlines()
    assert lines[0] == "2 2 2 | 2 2 2"
    assert [i for i, line in enumerate(lines) if "+" in line] == [2, 5]


def test_a_9x9_board_has_eleven_lines():
    lines = render(np.full(81, 10)).splitlines()
    assert len(lines) == 11
    assert lines[0] == "9 9 9 | 9 9 9 | 9 9 9"
    assert [i for i, line in enumerate(lines) if "+" in line] == [3, 7]


def test_tokens_that_are_no_digit_show():
    assert render(np.array([0, 9, *SOLVED[2:]])).startswith("? ? | 3 4")


def test_other_lengths_are_plain_numbers():
    right = np.zeros(25, bool)
    assert numbers(np.arange(25), right)[1] == " 5  6  7  8  9"
    assert numbers(np.arange(5), right[:5]) == ["0 1 2 3 4"]
    assert numbers(np.arange(2), np.array([False, True])) == ["0 1!"]


def test_a_kind_is_guessed_once_from_length_and_vocabulary():
    found = [guess_kind(81, 11), guess_kind(16, 6), guess_kind(36), guess_kind(900)]
    assert found == ["sudoku", "sudoku", "sudoku", "numbers"]
    assert guess_kind(81, 12) == "numbers"
    assert [guess_kind(seq, 6) for seq in (900, 36, 35)] == ["maze", "maze", "numbers"]


def test_a_kind_that_is_not_known_is_drawn_as_numbers():
    text = render_solution(SOLVED, SOLVED, SOLVED, "chess")
    assert text.splitlines()[1] == "2 3 4 5    2 3 4 5"


def test_wrong_cells_are_marked():
    inputs, prediction = SOLVED.copy(), SOLVED.copy()
    inputs[1] = 1
    prediction[1] = 4
    lines = render_solution(inputs, prediction, SOLVED).splitlines()
    assert lines[0] == "puzzle        prediction (1 wrong)"
    assert lines[1] == "1 . | 3 4     1 3!| 3 4"
    assert lines[2] == "3 4 | 1 2     3 4 | 1 2"
    assert len({line.index("|", 8) for line in lines if line.count("|") == 2}) == 1


def test_cells_without_a_label_are_not_wrong():
    labels = np.where(np.arange(16) == 3, -100, SOLVED)
    prediction = np.where(np.arange(16) == 3, 1, SOLVED)
    text = render_solution(SOLVED, prediction, labels)
    assert "(0 wrong)" in text
    assert "!" not in text
