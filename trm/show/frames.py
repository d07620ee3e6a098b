"""Boards after each step, and boards as text."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Integer

from data.puzzles.kind import Kind
from data.puzzles.questions import Question

GAP = "    "


@dataclass(frozen=True)
class Frame:
    """The board after one step; step 0 is the question."""

    step: int
    tokens: Integer[np.ndarray, " seq"]
    given: Bool[np.ndarray, " seq"]
    changed: Bool[np.ndarray, " seq"]
    """Cells that differ from the step before; none in the first two frames."""

    wrong: Bool[np.ndarray, " seq"]
    """Cells that break a rule or differ from the known answer."""

    altered: Bool[np.ndarray, " seq"]
    """Given cells that differ from the question."""

    checked: Literal["", "rules", "answer"]
    """Source of `wrong`: the rules, the known answer, or nothing."""

    q_halt: float | None
    """Probability that the board is right, by the model; None for the question."""

    @property
    def solved(self) -> bool:
        """True if no cell is wrong by the rules or the known answer."""
        return bool(self.checked) and not self.wrong.any()

    @property
    def kept(self) -> bool:
        """True if all givens are as in the question."""
        return not self.altered.any()

    @property
    def title(self) -> str:
        """Name of the board."""
        return f"step {self.step}" if self.step else "question"

    @property
    def verdict(self) -> str:
        """Result of the check in words; empty without a check."""
        count = int(self.wrong.sum())
        match self.checked:
            case "rules" if count:
                return f"{count} cell{' breaks' if count == 1 else 's break'} a rule"
            case "rules":
                return "the rules hold"
            case "answer" if count:
                return f"{count} wrong cell{'' if count == 1 else 's'}"
            case "answer":
                return "as the known answer"
        return ""


def frames_of(
    kind: Kind,
    question: Question,
    answers: Integer[np.ndarray, "steps seq"],
    q_halt: Float[np.ndarray, " steps"],
) -> list[Frame]:
    """Return the question, then the board after each step."""
    tokens = question.tokens
    given = kind.given(tokens[None])[0]
    nothing = np.zeros(len(tokens), bool)
    wrong, checked = np.zeros_like(answers, bool), ""
    if kind.faults is not None:
        wrong = kind.faults(np.broadcast_to(tokens, answers.shape), answers)
        checked = "rules"
    elif question.answer is not None:
        wrong, checked = kind.errors(answers, question.answer), "answer"
    frames = [Frame(0, tokens, given, nothing, nothing, nothing, "", None)]
    for i, board in enumerate(answers):
        changed = board != answers[i - 1] if i else nothing
        altered = given & (board != tokens)
        q = float(q_halt[i])
        frames.append(
            Frame(i + 1, board, given, changed, wrong[i], altered, checked, q)
        )
    return frames


def solved_first(frames: Sequence[Frame]) -> str:
    """Return `solved first after step N`; empty unless that was before the last."""
    solved = [frame.step for frame in frames if frame.solved]
    if solved and solved[0] < frames[-1].step:
        return f"solved first after step {solved[0]}"
    return ""


@dataclass(frozen=True)
class Solution:
    """The boards of a model for a question; as a string, all of them."""

    kind: Kind
    question: Question
    frames: Sequence[Frame]
    """The question, then the board after each step."""

    @property
    def answer(self) -> Integer[np.ndarray, " seq"]:
        """Tokens of the last board."""
        return self.frames[-1].tokens

    @property
    def solved(self) -> bool:
        """True if the last board has no wrong cell."""
        return self.frames[-1].solved

    @property
    def conclusion(self) -> str:
        """A line on the last board, and on the question if it has no answer."""
        last = self.frames[-1]
        parts = [f"step {last.step}", f"halting probability {last.q_halt:.3f}"]
        parts.append(last.verdict)
        if last.checked == "rules":
            parts.append(f"givens {'' if last.kept else 'not '}kept")
        parts.append(solved_first(self.frames))
        if last.checked == "rules" and not last.solved:
            parts.append(self.kind.remark(self.question.tokens))
        return "; ".join(filter(None, parts))

    def __str__(self) -> str:
        boards = draw_text(self.kind, self.frames, shutil.get_terminal_size().columns)
        return f"{boards}\n\n{self.conclusion}"


def crop(kind: Kind, frames: Sequence[Frame]) -> tuple[Kind, list[Frame]]:
    """Remove rows and columns that are blank in all frames."""
    if kind.blank is None:
        return kind, list(frames)
    used = np.any([frame.tokens != kind.blank for frame in frames], axis=0)
    used = used.reshape(-1, kind.columns)
    ends = [np.flatnonzero(used.any(axis=axis)).max(initial=0) + 1 for axis in (1, 0)]
    rows, columns = map(int, ends)

    def part(cells: np.ndarray) -> np.ndarray:
        return cells.reshape(-1, kind.columns)[:rows, :columns].reshape(-1)

    cut = [
        replace(
            frame,
            tokens=part(frame.tokens),
            given=part(frame.given),
            changed=part(frame.changed),
            wrong=part(frame.wrong),
            altered=part(frame.altered),
        )
        for frame in frames
    ]
    return replace(kind, columns=columns), cut


def draw_text(kind: Kind, frames: Sequence[Frame], width: int) -> str:
    """Return all boards as text of at most `width` columns; `!` at wrong cells."""
    blocks = []
    for frame in frames:
        q = "" if frame.q_halt is None else f"halt {frame.q_halt:.3f}"
        faults = f"{frame.wrong.sum()} wrong" if frame.wrong.any() else ""
        state = "solved" if frame.solved else faults
        board = kind.render(frame.tokens, frame.wrong)
        blocks.append([frame.title, q, state, *board])
    column = max(len(line) for block in blocks for line in block)
    across = max((width + len(GAP)) // (column + len(GAP)), 1)
    shelves = [blocks[i : i + across] for i in range(0, len(blocks), across)]
    return "\n\n".join(_side_by_side(shelf, column) for shelf in shelves)


def _side_by_side(blocks: Sequence[Sequence[str]], column: int) -> str:
    rows = zip_longest(*blocks, fillvalue="")
    lines = (GAP.join(f"{line:<{column}}" for line in row).rstrip() for row in rows)
    return "\n".join(lines)
