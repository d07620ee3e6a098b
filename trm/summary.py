"""What an evaluation says: as JSON, and for a person."""

from typing import Any

import numpy as np

from trm.evaluation import Effort
from trm.scoring import Sums, doublings

Result = dict[str, Any]

NOTES = {
    "exact_accuracy": "puzzles solved",
    "by_the_rules": "answers that keep the rules, whatever the labels",
    "accuracy": "cells right",
    "q_halt_accuracy": "puzzles of which q_halt tells whether they are solved",
    "steps": "mean supervision steps",
}


def result(
    total: Sums,
    effort: Effort,
    *,
    step: int,
    puzzles: int,
    row_steps: int,
    seconds: float,
) -> Result:
    """What a checkpoint reaches, as JSON takes it.

    Args:
        total: over all puzzles.
        effort: that was made.
        step: of the checkpoint.
        puzzles: that were answered, scored or not.
        row_steps: steps that rows have made, idle ones included.
        seconds: on the devices, without compiling.
    """
    means = {name: _mean(*pair) for name, pair in total.items()}
    part = lambda name: {
        key.removeprefix(name): value
        for key, value in means.items()
        if key.startswith(name)
    }
    found: Result = {
        "step": step,
        "puzzles": puzzles,
        "scored": total["exact_accuracy"][1],
        "values": {key: value for key, value in means.items() if "/" not in key},
        "curve": part("curve/"),
        "work": {
            "steps": int(total["work/steps"][0]),
            "row_steps": row_steps,
            "steps_of_fixed": puzzles * effort.rollouts * effort.steps,
            "seconds": seconds,
            "puzzles_per_second": puzzles / seconds,
        },
    }
    if effort.rollouts > 1:
        found["rollouts"] = part("rollouts/")
    return found


def _mean(total: Any, count: int) -> Any:
    """A number, or a list of them; None where nothing was counted."""
    return np.asarray(total / count).tolist() if count else None


def describe(found: Result) -> str:
    """What a checkpoint reaches, as tables."""
    values, work = found["values"], found["work"]
    lines = [
        f"  {values[key]:8.4f}  {key:16s} {note}"
        for key, note in NOTES.items()
        if values.get(key) is not None
    ]
    if found["scored"]:
        curve = found["curve"]["exact_accuracy"]
        at = doublings(len(curve))
        lines += ["", _row("after step", at)]
        lines += [_row("solved", [curve[number - 1] for number in at])]
    if found["scored"] and "rollouts" in found:
        lines += ["", *_rollouts(dict(found["rollouts"]))]
    votes = found.get("votes", {})
    lines += [f"  {value:8.4f}  {name}" for name, value in votes.items()]
    share = work["row_steps"] / work["steps_of_fixed"]
    lines += [
        "",
        f"  {work['puzzles_per_second']:.1f} puzzles/s ({work['seconds']:.2f} s); "
        f"{work['row_steps']:,} steps, idle rows included: {100 * share:.1f} % of all "
        "steps for all",
    ]
    return "\n".join(lines)


def _rollouts(shares: dict[str, float]) -> list[str]:
    """Puzzles solved by the first so many rollouts, for each rule."""
    one = shares.pop("one")
    numbers = sorted({int(key.split("/")[0]) for key in shares})
    rules = dict.fromkeys(key.split("/")[1] for key in shares)
    share = lambda rule: [shares[f"{number}/{rule}"] for number in numbers]
    return [
        _row("rollouts", numbers),
        *(_row(rule, share(rule)) for rule in rules),
        f"  ({one:.4f}: one rollout, on average; any: pass@K, one of them is right)",
    ]


def compare(results: list[Result]) -> str:
    """All checkpoints in a table, and the best of them."""
    first = results[0]["values"]
    keys = [key for key in NOTES if first.get(key) is not None]
    votes = list(results[0].get("votes", {}))
    lines = ["  checkpoint" + "".join(f"{key:>17s}" for key in keys + votes)]
    for found in results:
        values = found["values"] | found.get("votes", {})
        numbers = "".join(f"{values[key]:17.4f}" for key in keys + votes)
        lines.append(f"  {found['step']:10d}{numbers}")
    for key in votes[-1:] or keys[:1]:  # of ARC the vote counts
        best = max(
            results,
            key=lambda found: {**found["values"], **found.get("votes", {})}[key],
        )
        lines.append(f"  The best by {key} is step {best['step']}.")
    return "\n".join(lines)


def _row(name: str, numbers: list[Any]) -> str:
    """A line of a table."""
    show = lambda x: f"{x:8d}" if isinstance(x, int) else f"{x:8.4f}"
    return f"  {name:11s}" + "".join(map(show, numbers))
