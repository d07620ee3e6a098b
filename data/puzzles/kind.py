"""The interface of a kind of puzzle: how its boards are read, drawn and checked.

The terminal, pictures and pages use a `Kind` alone. A kind of one's own replaces
fields of `numbers`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from jaxtyping import Bool, Integer

from configs import UserError
from data.puzzles.questions import Question
from data.puzzles.symmetry import Symmetry, views

Boards = Integer[np.ndarray, "boards seq"]
Cells = Bool[np.ndarray, "boards seq"]
Render = Callable[[Integer[np.ndarray, " seq"], Bool[np.ndarray, " seq"]], list[str]]

GAP = "    "


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of puzzle, for boards of one size."""

    columns: int
    """Cells of a row; boards are stored row by row."""

    signs: tuple[str, ...]
    """A character, or a number, for each token."""

    read: Callable[..., list[Question]]
    """`text, name="" -> questions`; raises `UserError` for text of another form."""

    render: Render
    """`tokens, wrong -> lines` of text, with `!` after each wrong cell."""

    letters: tuple[str, ...] = ()
    """Text in a picture's cell for each token; () for none."""

    fills: tuple[str, ...] = ()
    """Color of a picture's cell for each token; () for plain cells."""

    key: tuple[tuple[str, str], ...] = ()
    """Colors to explain, each with its meaning."""

    box: tuple[int, int] = (0, 0)
    """Rows and columns between two thick lines; 0 for none."""

    blank: int | None = None
    """Token of the cells outside of a smaller board, which pictures leave out."""

    hints: bool = True
    """False if a cell of the solution makes no sense as a part of the question."""

    given: Callable[[Boards], Cells] = lambda inputs: np.zeros_like(inputs, bool)
    """`inputs -> cells` that an answer must repeat."""

    faults: Callable[[Boards, Boards], Cells] | None = None
    """`inputs, answers -> cells` that break a rule, changed givens included; none in a
    solution. None: the kind has no rules to check."""

    symmetries: Callable[[np.random.Generator], Iterator[Symmetry]] | None = None
    """`rng -> symmetries` in random order, without end. Puzzles seen under one have
    another question and answer by the same rules. None: the kind has none."""

    errors: Callable[[Boards, Integer[np.ndarray, " seq"]], Cells] = np.not_equal
    """`answers, known answer -> wrong cells`, for kinds without rules."""

    remark: Callable[[Integer[np.ndarray, " seq"]], str] = lambda inputs: ""
    """`inputs -> text` on a question without exactly one answer; else empty."""

    def show(self, tokens: Integer[np.ndarray, " seq"]) -> str:
        """Return a board as a line of signs; `?` for a token without one."""
        known = len(self.signs)
        signs = [self.signs[t] if 0 <= t < known else "?" for t in tokens.tolist()]
        return (" " if max(map(len, self.signs)) > 1 else "").join(signs)

    def draw(
        self,
        inputs: Integer[np.ndarray, " seq"],
        prediction: Integer[np.ndarray, " seq"],
        labels: Integer[np.ndarray, " seq"],
    ) -> str:
        """Return puzzle and prediction side by side, with `!` after each wrong cell.

        Cells with a negative label are not scored.
        """
        wrong = (labels >= 0) & (prediction != labels)
        left = ["puzzle", *self.render(inputs, np.zeros_like(wrong))]
        right = [f"prediction ({wrong.sum()} wrong)", *self.render(prediction, wrong)]
        width = max(map(len, left))
        pairs = zip_longest(left, right, fillvalue="")
        return "\n".join(f"{a:<{width}}{GAP}{b}".rstrip() for a, b in pairs)

    def views(self, number: int, seed: int) -> Symmetry:
        """Return a batch of symmetries: the identity, and others drawn with a seed.

        Raises:
            UserError: if the kind has no symmetries.
        """
        if self.symmetries is None:
            raise UserError(
                "Attempts under symmetries need puzzles of a kind that has some, such "
                "as Sudoku or mazes. Make one attempt. (ARC needs none: its dataset "
                "has augmentations, and they vote.)"
            )
        return views(self.symmetries(np.random.default_rng(seed)), number)

    def is_solution(
        self, inputs: Boards, answers: Boards
    ) -> Bool[np.ndarray, " boards"] | None:
        """Check answers by the rules, without labels; None for a kind without rules."""
        if self.faults is None:
            return None
        return self.faults(inputs, answers).sum(axis=1) == 0


def numbers(seq: int, vocab: int) -> Kind:
    """Return the kind of puzzles shown as numbers, in a square if `seq` allows it."""
    signs = tuple(map(str, range(vocab)))
    return Kind(
        columns=_columns(seq),
        signs=signs,
        letters=signs,
        read=lambda text, name="": read_numbers(text, seq, vocab),
        render=render_numbers,
    )


def read_numbers(text: str, seq: int, vocab: int) -> list[Question]:
    """Read a puzzle from each line: its tokens, separated by blanks or commas.

    Raises:
        UserError: if a line has another length, or a word that is not a token.
    """
    questions = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        if len(words) != seq:
            raise UserError(
                f"A puzzle of this model must have {seq} tokens: line {number} has "
                f"{len(words)}. Give all of them in a line."
            )
        for word in words:
            short = word.isascii() and word.isdigit() and len(word) < 20
            if not (short and int(word) < vocab):
                raise UserError(
                    f"A token of this model must be a number below {vocab}: line "
                    f"{number} has {word!r:.40}. Correct it."
                )
        tokens = np.array(list(map(int, words)), np.int32)
        questions.append(Question(f"line {number}", tokens))
    return questions


def render_numbers(
    tokens: Integer[np.ndarray, " seq"], wrong: Bool[np.ndarray, " seq"]
) -> list[str]:
    """Return lines of bare numbers, with `!` after each wrong cell."""
    width = max((len(str(token)) for token in tokens), default=1)
    return render_cells([f"{token:>{width}}" for token in tokens.tolist()], wrong)


def render_cells(
    cells: list[str], wrong: Bool[np.ndarray, " seq"], columns: int | None = None
) -> list[str]:
    """Return lines of cells, with `!` after each wrong one.

    `columns`: cells of a line; None: a square if possible, else all in one line.
    """
    columns = columns or _columns(len(cells))
    marked = [
        cell + ("!" if bad else " ") for cell, bad in zip(cells, wrong, strict=True)
    ]
    rows = (marked[i : i + columns] for i in range(0, len(marked), columns))
    return ["".join(row).rstrip() for row in rows]


def _columns(seq: int) -> int:
    """Return the side of a square of `seq` cells, or `seq` if there is none."""
    side = math.isqrt(seq)
    return side if side * side == seq else seq
