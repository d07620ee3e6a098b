"""Clamp and restart: ask the model again, with its surest cells pinned.

A puzzle whose answer breaks the rules gets its surest open cell as another given, and
is answered again from fresh latents. Where a pinned cell breaks a rule, all pins of the
puzzle are removed. Every round has noise of its own, so that none is repeated. This is
a search that uses the rules, so it is reported apart, with its steps.

Source: our own, after the pinned cells and restarts of arXiv 2605.08605 (LDT), which
learns where a board is in conflict instead of checking its rules.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from data.puzzles.kind import Boards, Kind
from trm.scoring import Sums

Ask = Callable[
    [int, Int[np.ndarray, " some"], Boards], tuple[dict[str, np.ndarray], Sums]
]
"""Takes the round, the puzzles to answer and their boards; returns what `settle`
returns."""


def clamp(
    ask: Ask,
    kind: Kind,
    questions: Int[np.ndarray, "puzzles seq"],
    first: tuple[dict[str, np.ndarray], Sums],
    rounds: int,
) -> Sums:
    """Answer puzzles in at most `rounds` rounds, each until an answer keeps the rules.

    Args:
        ask: answers some of the puzzles, from the second round on.
        kind: its rules.
        questions: the puzzles.
        first: what `settle` returned for the first round.
        rounds: at most.

    Returns:
        `clamp/by_the_rules`, `clamp/exact_accuracy` and `clamp/steps` (of all puzzles,
        so far) by round.
    """
    boards, puzzles = questions.copy(), len(questions)
    exact, ruled = np.zeros((2, puzzles), bool)
    done = np.zeros((3, rounds), np.int64)
    steps, left, (found, sums) = 0, np.arange(puzzles), first
    for number in range(rounds):
        if len(left):
            if number > 0:
                found, sums = ask(number, left, boards[left])
            steps += int(sums["work/steps"][0])
            answers = found["predictions"]
            solved = kind.is_solution(questions[left], answers)
            assert solved is not None
            exact[left], ruled[left] = found["exact"], solved
            boards[left] = pin(
                kind, questions[left], boards[left], answers, found["sure"]
            )
            left = left[~solved]
        done[:, number] = ruled.sum(), exact.sum(), steps
    names = ("by_the_rules", "exact_accuracy", "steps")
    return {
        f"clamp/{name}": (row, puzzles) for name, row in zip(names, done, strict=True)
    }


def pin(
    kind: Kind,
    questions: Int[np.ndarray, "puzzles seq"],
    boards: Int[np.ndarray, "puzzles seq"],
    answers: Int[np.ndarray, "puzzles seq"],
    sure: Float[np.ndarray, "puzzles seq"],
) -> Int[np.ndarray, "puzzles seq"]:
    """Return the boards with the surest open cell of each answer pinned.

    A cell that breaks a rule is not pinned. A board starts over as its question if a
    pinned cell breaks a rule or was changed, or if no cell can be pinned.

    Args:
        kind: its rules.
        questions: the puzzles.
        boards: the questions with the cells pinned so far.
        answers: to the boards.
        sure: probability of each cell of the answers.
    """
    assert kind.faults is not None
    pinned = boards != questions
    faults = kind.faults(questions, answers) | (pinned & (answers != boards))
    free = ~pinned & ~kind.given(questions) & (answers != questions) & ~faults
    over = (faults & pinned).any(axis=1) | ~free.any(axis=1)
    every, cell = np.arange(len(boards)), np.where(free, sure, -1.0).argmax(axis=1)
    more = boards.copy()
    more[every, cell] = answers[every, cell]
    return np.where(over[:, None], questions, more)
