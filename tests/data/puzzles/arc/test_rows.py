"""Rows of tokens: every grid comes back, and wrong answers are no grids."""

import itertools

import numpy as np
import pytest

from data.puzzles.arc.grid import SIDE, draw
from data.puzzles.arc.rows import (
    END,
    FIRST_TASK,
    LINE_END,
    OUTPUTS,
    SEPARATOR,
    answer_of,
    cut_out,
    labels_of,
    longest_row,
    prompt_of,
    row_of,
)

RNG = np.random.default_rng(0)
LABELS = np.array([FIRST_TASK + 4, OUTPUTS + 7], np.int32)


def grid(rows: int, columns: int) -> np.ndarray:
    return RNG.integers(0, 10, (rows, columns), np.uint8)


def test_every_size_comes_back() -> None:
    given = grid(2, 3)
    prompt = prompt_of(LABELS, given)
    assert prompt[:2].tolist() == LABELS.tolist()
    assert prompt[-1] == SEPARATOR
    for rows, columns in itertools.product(range(1, SIDE + 1), repeat=2):
        wanted = grid(rows, columns)
        row = row_of(prompt, wanted)
        assert row[: len(prompt)].tolist() == prompt.tolist()
        assert len(row) == len(prompt) + rows * (columns + 1) + 1 <= longest_row()
        answer = answer_of(row[len(prompt) :])
        assert answer is not None
        np.testing.assert_array_equal(answer, wanted)
    assert len(row_of(prompt_of(LABELS, grid(SIDE, SIDE)), wanted)) == longest_row()
    assert longest_row() == 1864


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        [END],
        [1, 2, LINE_END],  # no end
        [1, 2, END],  # no line
        [LINE_END, END],
        [1, 2, LINE_END, 3, LINE_END, END],
        [1, 2, LINE_END, 3, END],
        [1, SEPARATOR, LINE_END, END],
        [1, LINE_END, LINE_END, 1, END],
        [*[1] * 31, LINE_END, END],
        [*[1, LINE_END] * 31, END],
    ],
)
def test_what_is_no_grid(tokens: list[int]) -> None:
    assert answer_of(np.array(tokens, np.int32)) is None


def test_tokens_after_the_end_do_not_count() -> None:
    answer = answer_of(np.array([1, LINE_END, 2, LINE_END, END, END, 3]))
    assert answer is not None
    assert answer.tolist() == [[1], [2]]


def test_a_grid_is_found_anywhere() -> None:
    for rows, columns in ((1, 1), (3, 7), (30, 30), (30, 2)):
        canvas, wanted = np.zeros((90, 90), np.uint8), grid(rows, columns)
        at = RNG.integers(0, 31 - rows), RNG.integers(0, 31 - columns)
        draw(canvas[at[0] :, at[1] :][:31, :31], wanted)
        np.testing.assert_array_equal(cut_out(canvas[:30, :30].reshape(-1)), wanted)


def test_labels() -> None:
    """A task has one, whatever its colors; each symmetry has one."""
    names = ["<blank>", "a", "a|||t3|||0213456789", "a|||t3|||0312456789", "b"]
    labels, tasks = labels_of(names)
    assert tasks == 3
    first, symmetry = (labels - (FIRST_TASK, OUTPUTS)).T.tolist()
    assert first == [0, 1, 1, 1, 2]
    assert symmetry == [0, 0, 3, 3, 0]
