"""Against a search of one maze at a time."""

from collections import deque

import numpy as np
import pytest

from data.puzzles.maze.flood import distances, flood, to_cells, to_words


def search(free, start):
    """Steps from `start` to every cell of one maze, by a queue."""
    rows, columns = free.shape
    found, queue = {start: 0}, deque([start])
    while queue:
        row, column = queue.popleft()
        for step in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            to = (row + step[0], column + step[1])
            inside = 0 <= to[0] < rows and 0 <= to[1] < columns
            if inside and free[to] and to not in found:
                found[to] = found[row, column] + 1
                queue.append(to)
    steps = np.full(free.shape, -1)
    for cell, length in found.items():
        steps[cell] = length
    return steps


def draw(size, mazes=20, seed=0):
    """Mazes and their starts."""
    rng = np.random.default_rng(seed)
    free = rng.random((mazes, size, size)) < 0.65
    starts = rng.integers(size, size=(mazes, 2))
    start = np.zeros_like(free)
    start[np.arange(mazes), *starts.T] = True
    return free | start, start, [tuple(cell) for cell in starts.tolist()]


@pytest.mark.parametrize("size", [1, 2, 7, 30, 32, 33, 64])
def test_distances_are_those_of_a_search(size):
    free, start, cells = draw(size)
    expected = [search(maze, cell) for maze, cell in zip(free, cells, strict=True)]
    np.testing.assert_array_equal(distances(start, free), expected)


@pytest.mark.parametrize("size", [1, 8, 31, 32, 33, 64])
def test_words_hold_the_cells(size):
    free, _, _ = draw(size)
    words = to_words(free)
    assert words.shape == (size, 20)
    np.testing.assert_array_equal(to_cells(words, size), free)


@pytest.mark.parametrize("steps", [0, 1, 7, 8, 20])
def test_a_flood_keeps_the_mazes_that_go_on(steps):
    free, start, _ = draw(30)
    found = flood(to_words(start), to_words(free), steps)
    apart = distances(start, free)
    wet = (apart >= 0) & (apart <= steps)
    going = apart.max(axis=(1, 2)) > steps
    assert set(np.flatnonzero(going)) <= set(found.mazes)
    np.testing.assert_array_equal(to_cells(found.wet, 30), wet[found.mazes])
    ended = flood(found.wet, found.free)
    np.testing.assert_array_equal(to_cells(ended.wet, 30), (apart >= 0)[found.mazes])
