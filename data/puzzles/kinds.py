"""The kinds of puzzles: one line for each."""

from collections.abc import Callable

from data.puzzles.arc.kind import arc
from data.puzzles.kind import Kind, numbers
from data.puzzles.maze.kind import maze
from data.puzzles.sudoku.kind import sudoku

KINDS: dict[str, Callable[[int, int], Kind | None]] = {
    "sudoku": sudoku,
    "maze": maze,
    "arc": arc,
}
"""Name in `dataset.json` -> `seq, vocab -> Kind`; None if boards have other sizes."""


def kind_of(name: str | None, seq: int, vocab: int) -> Kind:
    """Return the kind of puzzles with `seq` cells and `vocab` tokens.

    Args:
        name: name in `KINDS`. None (official datasets): the first kind with these
            sizes.
        seq: cells of a board.
        vocab: number of tokens.

    Returns:
        The kind, or `numbers` where no kind has this name and these sizes.
    """
    makers = [make for key, make in KINDS.items() if name in (None, key)]
    kinds = (make(seq, vocab) for make in makers)
    return next(filter(None, kinds), None) or numbers(seq, vocab)
