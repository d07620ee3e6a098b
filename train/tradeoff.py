"""Accuracy against work, from result files of `train.evaluate`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from configs import UserError, require
from data.storage import open_path, read_text
from trm.rollouts import Rollouts
from trm.summary import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Point(NamedTuple):
    """What some work on every puzzle solves."""

    steps: float
    """Supervision steps for a puzzle, of all rollouts and rounds together."""

    solved: float
    """Share of the puzzles."""

    low: float
    """Lower end of Wilson's 95 % interval."""

    high: float


def read_points(path: str | Path) -> list[Point]:
    """Return the points of the first checkpoint in a result file.

    Of `--rollouts.rounds` there is a point for each round, of rollouts one for 1, 2, 4,
    ... rollouts (of particles only one for all), else one for each step, or, where
    puzzles stop by themselves, a single one.

    Raises:
        UserError: if the file is no result with labels.
    """
    try:
        content = json.loads(read_text(open_path(path)))
        found, settings = content["results"][0], content["settings"]
        rollouts = Rollouts(**settings["rollouts"])
        pairs = np.array(_pairs(found, rollouts, settings["mode"]), float).tolist()
        scored = found["scored"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"`--tradeoff` needs result files of `train.evaluate`: {path} is none "
            f"({error!r:.80})."
        ) from None
    require(scored > 0, f"`--tradeoff` needs puzzles with answers: {path} has none.")
    return [Point(steps, share, *wilson(share, scored)) for steps, share in pairs]


def _pairs(
    found: dict[str, Any], rollouts: Rollouts, mode: str
) -> list[tuple[Any, Any]]:
    """Return steps a puzzle and shares solved."""
    steps = found["work"]["steps"] / found["puzzles"]
    if "clamp" in found:
        clamp = found["clamp"]
        return list(zip(clamp["steps"], clamp["exact_accuracy"], strict=True))
    if "rollouts" in found and not rollouts.particles:
        chosen, copies = rollouts.resolved(), rollouts.resolved().number
        shares = {
            int(number): share
            for key, share in found["rollouts"].items()
            for number, _, rule in [key.partition("/")]
            if rule == chosen.select
        }
        return [(steps * n / copies, share) for n, share in sorted(shares.items())]
    if "rollouts" not in found and mode == "fixed":
        return list(enumerate(found["curve"]["exact_accuracy"], start=1))
    return [(steps, found["values"]["exact_accuracy"])]


def draw_tradeoff(
    panel: "Axes", files: Sequence[str | Path], colors: Sequence[str], markers: str
) -> None:
    """Draw a curve for each file, with intervals."""
    for number, file in enumerate(files):
        steps, solved, low, high = zip(*read_points(file), strict=True)
        color = colors[number % len(colors)]
        mark = markers[number % len(markers)]
        label = Path(file).stem.replace("-", " ")
        panel.plot(steps, solved, marker=mark, ms=4, lw=1.5, label=label, color=color)
        panel.fill_between(steps, low, high, alpha=0.12, lw=0, color=color)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.set_xlabel("supervision steps for a puzzle")
    panel.set_title("solved", loc="left", fontsize=11)
