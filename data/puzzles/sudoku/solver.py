"""A small Sudoku solver: depth-first search over the cell with fewest candidates.

Boards are lists of digits, row by row, with 0 for an empty cell. Sets of digits are
bit masks, bit d for digit d.
"""

import random
from collections.abc import Iterator

from data.puzzles.sudoku.board import Box


class Search:
    """The state of a search: a board and the digits used in each row, column, box."""

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
        """Put `digit` into an empty `cell`, or take it out again."""
        self.cells[cell] ^= digit
        for unit in self._units[cell]:
            self._used[unit] ^= 1 << digit

    def candidates(self, cell: int) -> int:
        """The digits that no row, column or box of `cell` has, as a mask."""
        row, column, box = self._units[cell]
        used = self._used
        return self._all & ~(used[row] | used[column] | used[box])

    def solutions(self, rng: random.Random | None = None) -> Iterator[list[int]]:
        """Every solution, one by one, trying digits in the order of `rng` or rising."""
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
        """Placements, one of which each solution has; None on a full board.

        All are of one cell, the one with fewest candidates, unless a digit has but one
        place left in some row, column or box. The list is empty in a contradiction.
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
        """Whether every solution has `digit` in the empty `cell`."""
        for other in digits_of(self.candidates(cell) & ~(1 << digit)):
            trial = self.copy()
            trial.toggle(cell, other)
            if next(trial.solutions(), None) is not None:
                return False
        return True

    def copy(self) -> "Search":
        """An independent search in the same state."""
        other = Search.__new__(Search)
        other.cells, other._used = list(self.cells), list(self._used)
        other._all, other._units = self._all, self._units
        return other


def digits_of(mask: int) -> list[int]:
    """The digits of a mask, rising."""
    return [digit for digit in range(1, mask.bit_length()) if mask >> digit & 1]


def count_solutions(cells: list[int], box: Box, limit: int = 2) -> int:
    """The number of solutions of a board, counted up to `limit`."""
    found = Search(cells, box).solutions()
    return sum(1 for _ in zip(range(limit), found, strict=False))


class OutOfPatienceError(Exception):
    """A search has tried as much as it may."""


class BoundedSearch(Search):
    """A search that gives up, with `OutOfPatienceError`, after so many steps."""

    patience = 5_000

    def _choices(self) -> list[tuple[int, int]] | None:
        self.patience -= 1
        if self.patience < 0:
            raise OutOfPatienceError
        return super()._choices()


def solutions_known(cells: list[int], box: Box) -> int | None:
    """0 or 1 solutions, or 2 for more; None if a short search cannot tell.

    Args:
        cells: digits, which must not contradict each other.
        box: of the board.
    """
    found = BoundedSearch(cells, box).solutions()
    try:
        return sum(1 for _ in zip(range(2), found, strict=False))
    except OutOfPatienceError:
        return None


def carve(answer: list[int], box: Box, blanks: int, rng: random.Random) -> list[int]:
    """A puzzle with `answer` as its only solution.

    Cells are emptied in random order, except where that would allow a second solution,
    until `blanks` are empty or all have been tried.
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
