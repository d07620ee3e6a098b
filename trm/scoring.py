"""From answers to numbers, on the host: integers and double precision throughout.

Metrics are means over puzzles, as officially; here each is a pair (sum, count), added
up in the order of the puzzles, so that neither mesh nor queue changes a digit.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from data.puzzles.dataset import IGNORE
from trm.evaluation import Answers, Effort
from trm.rollouts import CHOICES, Choice, select

WINDOW = 3
"""Last steps over which the residual is the mean change."""

Sums = dict[str, tuple[Any, int]]
"""Sums, of numbers or of arrays, each with its count."""


def settle(
    answers: Answers,
    puzzles: Int[np.ndarray, " real"],
    labels: Int[np.ndarray, "real seq"],
    effort: Effort,
    choice: Choice,
    ruled: Bool[np.ndarray, " items"] | None = None,
) -> tuple[dict[str, np.ndarray], Sums]:
    """Choose the answers to some puzzles of a queue, and sum their metrics.

    Args:
        answers: to the queue, on the host.
        puzzles: their indices in the queue.
        labels: of these puzzles; a puzzle without any is answered, but not scored.
        effort: of the answers.
        choice: the rule by which one of several rollouts is chosen.
        ruled: items of these puzzles whose answer keeps the rules; None: no rules.

    Returns:
        `predictions`, `sure` (the probability of each token), `q_halt`, `steps` and
        `exact` of each puzzle; and the sums. The name of a sum is a metric,
        `curve/<metric>` by step, `rollouts/<number>/<rule>` or `work/steps`.
    """
    copies = effort.rollouts
    items = puzzles[:, None] * copies + np.arange(copies)
    of = lambda array: np.asarray(array)[items]
    tokens, steps = of(answers.tokens), of(answers.steps)
    held = lambda by_step: hold(of(by_step), steps)
    q_halt, stopped = held(answers.q_halt)[..., -1], held(answers.wanted)[..., -1]
    values = {name: held(by_step) for name, by_step in answers.values.items()}
    exact = values["exact_accuracy"][..., -1]
    parts = (
        tokens,
        q_halt,
        residual(of(answers.moved), steps),
        steps,
        stopped & effort.early,
        np.zeros(items.shape, bool) if ruled is None else ruled.reshape(items.shape),
    )

    def pick(rule: Choice, number: int) -> Int[np.ndarray, " real"]:
        """Choose among the first `number` rollouts."""
        return select(rule, *(part[:, :number] for part in parts))

    every, best = np.arange(len(puzzles)), pick(choice, copies)
    chosen = lambda a: a[every, best]
    scored = (labels != IGNORE).any(1)

    def total(values: Any) -> tuple[Any, int]:
        """Sum over scored puzzles, whole numbers exactly."""
        kind = np.float64 if np.issubdtype(values.dtype, np.floating) else np.int64
        return values[scored].sum(0, dtype=kind), int(scored.sum())

    sums: Sums = {"steps": total(chosen(steps))}
    for name, by_step in values.items():
        sums[name] = total(chosen(by_step)[:, -1])
    for name in ("exact_accuracy", "accuracy"):
        sums[f"curve/{name}"] = total(chosen(values[name]))
    if ruled is not None:
        sums["by_the_rules"] = int(chosen(parts[-1]).sum()), len(puzzles)
    sums["work/steps"] = steps.sum(dtype=np.int64), 1
    if copies > 1:
        possible = {"first": effort.early, "rules": ruled is not None}
        rules: list[Choice] = [rule for rule in CHOICES if possible.get(rule, True)]
        for number in doublings(copies):
            for rule in rules:
                solved = exact[every, pick(rule, number)]
                sums[f"rollouts/{number}/{rule}"] = total(solved)
            sums[f"rollouts/{number}/any"] = total(exact[:, :number].any(1))
        sums["rollouts/one"] = total(exact.mean(1, dtype=np.float64))
    return {
        "predictions": chosen(tokens),
        "sure": chosen(of(answers.sure)),
        "q_halt": chosen(q_halt),
        "steps": chosen(steps),
        "exact": chosen(exact),
    }, sums


def hold(by_step: np.ndarray, steps: Int[np.ndarray, "*items"]) -> np.ndarray:
    """Repeat the last value of an item that has halted for the steps after it."""
    at = np.minimum(np.arange(by_step.shape[-1]), steps[..., None] - 1)
    return np.take_along_axis(by_step, at, axis=-1)


def residual(
    moved: Float[np.ndarray, "*items steps"], steps: Int[np.ndarray, "*items"]
) -> Float[np.ndarray, "*items"]:
    """Return the mean change of the logits over the last steps; infinite after one.

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
    """Add up; `total` may be empty."""
    pairs = {name: (total.get(name, (0, 0)), pair) for name, pair in more.items()}
    return {name: (a[0] + b[0], a[1] + b[1]) for name, (a, b) in pairs.items()}


def doublings(largest: int) -> list[int]:
    """Return 1, 2, 4, ... and the largest."""
    return sorted({largest} | {1 << i for i in range(largest.bit_length())})
