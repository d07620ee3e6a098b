"""Rows of ARC in plain Python: an oracle of their places."""

from collections.abc import Iterable

LINE_END, SEPARATOR, END, LABEL = 10, 11, 12, 13


def plain_places(tokens: Iterable[int]) -> list[tuple[int, int, int]]:
    """Column, line and part of each token, one after the other."""
    places, column, line, part = [], 0, 0, 1
    for token in tokens:
        if token >= LABEL:
            places.append((0, 0, 0))
            column = 0
        elif token == SEPARATOR:
            places.append((0, 0, 2))
            column, line, part = 0, 0, 3
        elif token == END:
            places.append((0, 0, 4))
            column += 1
        else:
            places.append((column, line, part))
            column, line = (0, line + 1) if token == LINE_END else (column + 1, line)
    return places
