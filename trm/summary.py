"""The result of an evaluation: as JSON, and as tables for a person."""

import math
from typing import Any

import numpy as np

from trm.evaluation import Effort
from trm.loss import NOTES
from trm.scoring import Sums, doublings

Result = dict[str, Any]


def result(
    total: Sums, effort: Effort, *, step: int, puzzles: int, whole: int
) -> Result:
    """Return the result of a checkpoint as JSON takes it.

    Args:
        total: over all puzzles. `work/row_steps` are steps that rows made, idle rows
            included; `work/seconds` are the devices', without compiling.
        effort: of the answers.
        step: of the checkpoint.
        puzzles: answered, scored or not.
        whole: puzzles of the data.
    """
    work = {
        name.removeprefix("work/"): value
        for name, (value, _) in total.items()
        if name.startswith("work/")
    }
    means = {
        name: np.asarray(value / count).tolist() if count else None
        for name, (value, count) in total.items()
    }
    part = lambda prefix: {
        name.removeprefix(prefix): value
        for name, value in means.items()
        if name.startswith(prefix)
    }
    found: Result = {
        "step": step,
        "puzzles": puzzles,
        "whole": whole,
        "scored": total["exact_accuracy"][1],
        "values": {name: value for name, value in means.items() if "/" not in name},
        "curve": part("curve/"),
        "work": {
            "steps": int(work["steps"]),
            "row_steps": work["row_steps"],
            "steps_of_fixed": puzzles * effort.rollouts * effort.steps,
            "seconds": work["seconds"],
            "puzzles_per_second": puzzles / work["seconds"],
        },
    }
    if clamped := part("clamp/"):
        found["clamp"] = clamped
    if effort.rollouts > 1:
        found["rollouts"] = part("rollouts/")
    return found


def describe(found: Result) -> str:
    """Return the result of a checkpoint as tables."""
    values, work = found["values"], found["work"]
    lines = table(values)
    if found["scored"]:
        curve = found["curve"]["exact_accuracy"]
        steps = doublings(len(curve))
        low, high = wilson(values["exact_accuracy"], found["scored"])
        lines.append(f"  95 % interval of exact_accuracy: {low:.4f} to {high:.4f}")
        lines += ["", _row("after step", steps)]
        lines += [_row("solved", [curve[number - 1] for number in steps])]
    if found["scored"] and "rollouts" in found:
        lines += ["", *_rollouts(dict(found["rollouts"]))]
    if "clamp" in found:
        rounds = doublings(len(found["clamp"]["steps"]))
        lines += ["", _row("round", rounds)]
        for name, label in (
            ("exact_accuracy", "solved"),
            ("by_the_rules", "by rules"),
            ("steps", "steps"),
        ):
            shares = found["clamp"][name]
            lines.append(_row(label, [shares[number - 1] for number in rounds]))
    votes = found.get("votes", {})
    lines += [f"  {value:8.4f}  {name}" for name, value in votes.items()]
    share = work["row_steps"] / work["steps_of_fixed"]
    answered, scored, whole = found["puzzles"], found["scored"], found["whole"]
    if answered < whole:
        lines.append(f"  Only {answered:,} of {whole:,} puzzles were evaluated.")
    if scored < answered:
        lines.append(f"  Only {scored:,} of {answered:,} puzzles have a solution.")
    lines += [
        "",
        f"  {work['puzzles_per_second']:.1f} puzzles/s ({work['seconds']:.2f} s); "
        f"{work['row_steps']:,} steps with idle rows: {100 * share:.1f} % of all steps "
        "for all puzzles",
    ]
    return "\n".join(lines)


def table(values: dict[str, float | None]) -> list[str]:
    """Return a line for each metric that was counted, losses left out."""
    others = sorted(values.keys() - NOTES.keys() - {"score"})
    notes = NOTES | {name: "" for name in others if not name.endswith("loss")}
    return [
        f"  {value:8.4f}  {name:16s} {note}".rstrip()
        for name, note in notes.items()
        if (value := values.get(name)) is not None
    ]


def _rollouts(shares: dict[str, float]) -> list[str]:
    """Return a table of the puzzles solved by the first rollouts, for each rule."""
    one = shares.pop("one")
    numbers = sorted({int(key.split("/")[0]) for key in shares})
    rules = dict.fromkeys(key.split("/")[1] for key in shares)
    share = lambda rule: [shares[f"{number}/{rule}"] for number in numbers]
    return [
        _row("rollouts", numbers),
        *(_row(rule, share(rule)) for rule in rules),
        f"  ({one:.4f}: one rollout, on average; any: pass@K, one of them is right)",
    ]


def wilson(share: float, number: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `number` puzzles (Wilson 1927)."""
    z = 1.959964
    center = share + z**2 / (2 * number)
    reach = z * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    scale = 1 + z**2 / number
    return (center - reach) / scale, (center + reach) / scale


def compare(results: list[Result]) -> str:
    """Return a table of all checkpoints, and the best of them."""
    of = lambda found: found["values"] | found.get("votes", {})
    votes = list(results[0].get("votes", {}))
    keys = [key for key in NOTES if results[0]["values"].get(key) is not None]
    lines = ["  checkpoint" + "".join(f"{key:>17s}" for key in keys + votes)]
    for found in results:
        numbers = "".join(f"{of(found)[key]:17.4f}" for key in keys + votes)
        lines.append(f"  {found['step']:10d}{numbers}")
    for key in votes[-1:] or keys[:1]:  # ARC is scored by vote
        best = max(results, key=lambda found: of(found)[key])
        lines.append(f"  The best by {key} is step {best['step']}.")
    return "\n".join(lines)


def _row(name: str, numbers: list[Any]) -> str:
    """Return a line of a table."""
    show = lambda x: f"{x:8d}" if isinstance(x, int) else f"{x:8.4f}"
    return f"  {name:11s}" + "".join(map(show, numbers))
