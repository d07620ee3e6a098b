"""From answers to numbers, on the host: integers and double precision throughout.

The metrics are means over puzzles, as officially; here each is a pair (sum, count),
added up in the order of the puzzles, so that neither mesh nor queue changes a digit.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from data.puzzles.dataset import IGNORE
from trm.evaluation import Answers, Effort, StepScores
from trm.rollouts import CHOICES, Choice, select

WINDOW = 3
"""Steps at the end of which the change is the residual."""

Sums = dict[str, tuple[Any, int]]
"""Sums, of numbers or of arrays, each with the count to divide it by."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The answers chosen for some puzzles."""

    predictions: Int[np.ndarray, "puzzles seq"]
    q_halt: Float[np.ndarray, " puzzles"]
    steps: Int[np.ndarray, " puzzles"]
    exact: Bool[np.ndarray, " puzzles"]


def settle(
    answers: Answers,
    puzzles: Int[np.ndarray, " real"],
    labels: Int[np.ndarray, "real seq"],
    effort: Effort,
    choice: Choice,
) -> tuple[Chosen, Sums]:
    """The chosen answers to some puzzles of a queue, and what to add up of them.

    Args:
        answers: to the queue, on the host.
        puzzles: places in the queue of those that count: the others are padding.
        labels: of these puzzles; one without any is answered, but not scored.
        effort: that was made.
        choice: which rollout answers.
    """
    copies = effort.rollouts
    items = puzzles[:, None] * copies + np.arange(copies)
    tokens, steps, wanted = (
        np.asarray(part)[items]
        for part in (answers.tokens, answers.steps, answers.wanted)
    )
    by_step: Any = held(
        jax.tree.map(lambda a: np.asarray(a)[items], answers.by_step), steps
    )
    q_halt, exact = by_step.q_halt[..., -1], by_step.exact[..., -1]
    moved = residual(np.asarray(answers.by_step.moved)[items], steps)

    def pick(choice: Choice, number: int) -> Int[np.ndarray, " real"]:
        """The rollout chosen of the first so many."""
        parts = (tokens, q_halt, moved, steps, wanted)
        return select(choice, *(part[:, :number] for part in parts))

    every, best = np.arange(len(puzzles)), pick(choice, copies)
    chosen = lambda a: a[every, best]
    scored = (labels != IGNORE).any(1)
    count = int(scored.sum())
    whole = lambda a: (a[scored].sum(0, dtype=np.int64), count)
    total = lambda a: (a[scored].sum(0, dtype=np.float64), count)
    q, right = chosen(q_halt).astype(np.float64), chosen(exact)
    sums: Sums = {
        "exact_accuracy": whole(right),
        "accuracy": total(chosen(by_step.accuracy)[:, -1]),
        "q_halt_accuracy": whole((q >= 0) == right),
        "steps": whole(chosen(steps)),
        "lm_loss": total(chosen(by_step.lm_loss)[:, -1]),
        "q_halt_loss": total(np.logaddexp(0.0, q) - right * q),
        "curve/exact_accuracy": whole(chosen(by_step.exact)),
        "curve/accuracy": total(chosen(by_step.accuracy)),
        "work/steps": (steps.sum(dtype=np.int64), 1),
    }
    if copies > 1:
        rules: list[Choice] = [
            rule for rule in CHOICES if rule != "first" or effort.early
        ]
        for number in doublings(copies):
            for rule in rules:
                solved = exact[every, pick(rule, number)]
                sums[f"rollouts/{number}/{rule}"] = whole(solved)
            sums[f"rollouts/{number}/any"] = whole(exact[:, :number].any(1))
        sums["rollouts/one"] = total(exact.mean(1, dtype=np.float64))
    return Chosen(
        predictions=chosen(tokens),
        q_halt=chosen(q_halt),
        steps=chosen(steps),
        exact=right,
    ), sums


def held(by_step: StepScores, steps: Int[np.ndarray, "*items"]) -> StepScores:
    """Scores in which an item that has halted says what it said last."""
    at = np.minimum(np.arange(by_step.exact.shape[-1]), steps[..., None] - 1)
    return jax.tree.map(lambda a: np.take_along_axis(a, at, axis=-1), by_step)


def residual(
    moved: Float[np.ndarray, "*items steps"], steps: Int[np.ndarray, "*items"]
) -> Float[np.ndarray, "*items"]:
    """Mean change of the logits over the last steps; infinite after a single one.

    Source: arXiv 2605.21488; `evaluators/eval_fn.py` of locuslab/EqR, with the window
    of `config/eval/depth_breadth.yaml`.
    """
    number, last = np.arange(moved.shape[-1]), steps[..., None]
    # The first step has nothing to change.
    within = (number >= 1) & (number >= last - WINDOW) & (number < last)
    count = within.sum(-1)
    total = np.where(within, moved, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)


def add(total: Sums, more: Sums) -> Sums:
    """The sums of both; `total` may be empty."""
    zero = (0, 0)
    pairs = {name: (total.get(name, zero), pair) for name, pair in more.items()}
    return {name: (a[0] + b[0], a[1] + b[1]) for name, (a, b) in pairs.items()}


def doublings(largest: int) -> list[int]:
    """1, 2, 4, ... and the largest."""
    return sorted({largest} | {1 << i for i in range(largest.bit_length())})
