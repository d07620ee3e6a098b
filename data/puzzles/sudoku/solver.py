"""A small Sudoku solver: depth-first search over the cell with fewest candidates.

Boards are lists of digits, row by row, with 0 for an empty cell. Sets of digits are
bit masks, bit d for digit d.
"""

import random
from collections.abc import Iterator
from itertools import islice

from data.puzzles.sudoku.board import Box


class Search:
    """The state of a search: a board and the used digits of each row, column, box."""

    def __init__(self, cells: list[int], box: Box):
        """Start from the given digits, which must not contradict each other."""
        size = box.size
        self.cells = [0] * len(cells)
        self._all = (1 << size + 1) - 2
        self._units = [
            (cell // size, size + cell % size, 2 * size + int(number))
            for cell, number in enumerate(box.of_cell)
        ]
        self._used = [0] * (3 * size)
        for cell, digit in enumerate(cells):
            if digit:
                self.toggle(cell, digit)

    def toggle(self, cell: int, digit: int) -> None:
        """Put `digit` into an empty `cell`, or remove it again."""
        self.cells[cell] ^= digit
        for unit in self._units[cell]:
            self._used[unit] ^= 1 << digit

    def candidates(self, cell: int) -> int:
        """Return a mask of the digits missing in the row, column and box of `cell`."""
        row, column, box = self._units[cell]
        used = self._used
        return self._all & ~(used[row] | used[column] | used[box])

    def solutions(self, rng: random.Random | None = None) -> Iterator[list[int]]:
        """Yield every solution, trying digits in random or (None) rising order."""
        choices = self._choices()
        if choices is None:
            yield list(self.cells)
            return
        if rng is not None:
            rng.shuffle(choices)
        for cell, digit in choices:
            self.toggle(cell, digit)
            yield from self.solutions(rng)
            self.toggle(cell, digit)

    def _choices(self) -> list[tuple[int, int]] | None:
        """Return placements (cell, digit) that every solution has one of.

        None: the board is full. Empty: the board contradicts itself. All placements are
        of the cell with fewest candidates, unless a digit has only one cell left in a
        row, column or box.
        """
        fewest, best, choice = 99, -1, 0
        once, twice = list(self._used), list(self._used)
        masks = {}
        for cell, digit in enumerate(self.cells):
            if digit:
                continue
            masks[cell] = mask = self.candidates(cell)
            if (count := mask.bit_count()) < fewest:
                fewest, best, choice = count, cell, mask
                if count <= 1:
                    return [(cell, digit) for digit in digits_of(mask)]
            for unit in self._units[cell]:
                twice[unit] |= once[unit] & mask
                once[unit] |= mask
        if any(seen != self._all for seen in once):
            return []
        for cell, mask in masks.items():
            for unit in self._units[cell]:
                if alone := mask & ~twice[unit]:
                    return [(cell, digit) for digit in digits_of(alone & -alone)]
        return [(best, digit) for digit in digits_of(choice)] if masks else None

    def is_forced(self, cell: int, digit: int) -> bool:
        """Check that every solution has `digit` in the empty `cell`."""
        for other in digits_of(self.candidates(cell) & ~(1 << digit)):
            trial = self.copy()
            trial.toggle(cell, other)
            if next(trial.solutions(), None) is not None:
                return False
        return True

    def copy(self) -> "Search":
        """Return an independent search in the same state."""
        other = Search.__new__(Search)
        other.cells, other._used = list(self.cells), list(self._used)
        other._all, other._units = self._all, self._units
        return other


def digits_of(mask: int) -> list[int]:
    """Return the digits of a mask in rising order."""
    return [digit for digit in range(1, mask.bit_length()) if mask >> digit & 1]


def count_solutions(cells: list[int], box: Box, limit: int = 2) -> int:
    """Return the number of solutions of a board, counted up to `limit`."""
    return len(list(islice(Search(cells, box).solutions(), limit)))


class OutOfPatienceError(Exception):
    """A search has reached its limit of steps."""


class BoundedSearch(Search):
    """A search that raises `OutOfPatienceError` after `patience` steps."""

    patience = 5_000

    def _choices(self) -> list[tuple[int, int]] | None:
        self.patience -= 1
        if self.patience < 0:
            raise OutOfPatienceError
        return super()._choices()


def solutions_known(cells: list[int], box: Box) -> int | None:
    """Return 0 or 1 solutions, or 2 for more; None if a short search is not enough.

    The digits of `cells` must not contradict each other.
    """
    try:
        return len(list(islice(BoundedSearch(cells, box).solutions(), 2)))
    except OutOfPatienceError:
        return None


def carve(answer: list[int], box: Box, blanks: int, rng: random.Random) -> list[int]:
    """Return a puzzle with `answer` as its only solution.

    Cells are emptied in random order, except where that allows a second solution, until
    `blanks` are empty or all have been tried.
    """
    search = Search(answer, box)
    left = blanks
    for cell in rng.sample(range(len(answer)), len(answer)):
        if not left:
            break
        digit = answer[cell]
        search.toggle(cell, digit)
        if search.is_forced(cell, digit):
            left -= 1
        else:
            search.toggle(cell, digit)
    return search.cells
