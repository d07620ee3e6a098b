import random

import numpy as np

from data.puzzles.sudoku.board import BOXES, is_solved
from data.puzzles.sudoku.solver import Search, carve, count_solutions


def test_all_grids_of_4x4_are_found_once():
    grids = {tuple(grid) for grid in Search([0] * 16, BOXES[4]).solutions()}
    assert len(grids) == 288
    assert is_solved(np.array(list(grids), np.uint8), BOXES[4]).all()
    assert sum(1 for _ in Search([0] * 16, BOXES[4]).solutions()) == 288


def test_random_order_finds_the_same_solutions():
    start = [1, 2, 3, 4] + [0] * 12
    plain = {tuple(grid) for grid in Search(start, BOXES[4]).solutions()}
    drawn = Search(start, BOXES[4]).solutions(random.Random(0))
    assert {tuple(grid) for grid in drawn} == plain
    assert len(plain) == 12


def test_counting_stops_at_the_limit():
    assert count_solutions([0] * 81, BOXES[9]) == 2
    assert count_solutions([0] * 16, BOXES[4], limit=500) == 288
    dead_end = [1, 2, 3, 0] + [0] * 3 + [4] + [0] * 8  # 4 sees the last cell of row 1
    assert count_solutions(dead_end, BOXES[4]) == 0


def test_a_carved_puzzle_can_lose_no_further_given():
    answer = next(Search([0] * 36, BOXES[6]).solutions(random.Random(1)))
    question = carve(answer, BOXES[6], 36, random.Random(2))
    assert count_solutions(question, BOXES[6]) == 1
    for cell in np.flatnonzero(question):
        fewer = list(question)
        fewer[cell] = 0
        assert count_solutions(fewer, BOXES[6]) == 2
