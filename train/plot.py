"""Plot training curves of runs: `python -m train.plot RUN [RUN ...] --out curves.svg`.

    python -m train.plot runs/a runs/b --out curves.png --x minutes
    python -m train.plot runs/mine --metrics lm_loss accuracy q_halt_accuracy
    python -m train.plot --tradeoff evaluations/*.json --out tradeoff.svg

Thin lines are training, lines with markers are evaluations. A run of several seeds has
one curve, the mean of its seeds, in a band of one standard deviation. Runs may be
training. Needs the extra `show`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro
from jaxtyping import Float
from tyro.conf import Positional

from configs import ceil_div, require
from data.storage import (
    AnyPath,
    absolute,
    exists,
    open_path,
    require_writable,
    whole_file,
)
from train import cli
from train.runs.metrics_file import read_rows
from train.runs.record import recorded_run
from train.tradeoff import draw_tradeoff

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette, safe for color-blind readers."""

MARKERS = "osD^vPX"

FEW = 4
"""Most runs whose legend is inside the panels."""

Axis = Literal["steps", "minutes"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Runs to plot, and the form of the plot."""

    runs: Positional[tuple[str, ...]]
    """Folders of runs; of several seeds, the folder that has `seed0`, `seed1`, ...
    With `--tradeoff`, files."""

    out: str = "curves.svg"
    """File to write: `.svg`, `.png` or `.pdf`."""

    metrics: tuple[str, ...] = ()
    """A panel each, by the names in `metrics.jsonl`. Default: loss and accuracy."""

    x: Axis = "steps"
    """`minutes`: of training alone, without evaluations and compiling."""

    log: bool = False
    """Logarithmic axes for losses."""

    tradeoff: bool = False
    """Instead of runs, take result files of `train.evaluate`, and draw the puzzles
    solved against the steps made."""


@dataclass(frozen=True)
class Curves:
    """The metrics of one seed of a run."""

    rows: dict[str, list[dict[str, Any]]]
    """The rows of `train` and `eval`, by step."""

    batch_size: int
    """Of steps whose row has no `batch_size`."""

    supervision_steps: int
    """Times that each batch counts in `examples_per_second`."""

    @classmethod
    def read(cls, folder: AnyPath) -> "Curves":
        """Read the metrics of the run in this folder.

        Raises:
            UserError: if there is no run, or it has no metrics yet.
        """
        config, _ = recorded_run(folder)
        found = sorted(read_rows(folder), key=lambda row: row["step"])
        require(bool(found), f"`{folder}` has no metrics yet. Wait for the first.")
        rows = {
            split: [row for row in found if row.get("split") == split]
            for split in ("train", "eval")
        }
        return cls(rows, config.batch_size, getattr(config, "supervision_steps", 1))

    def points(self, metric: str, split: str) -> Float[np.ndarray, "points 2"]:
        """Return step and value of a metric; `val_<metric>` in evaluations of a GPT."""
        pairs = [
            (row["step"], row.get(metric, row.get(f"val_{metric}")))
            for row in self.rows[split]
        ]
        counted = [pair for pair in pairs if isinstance(pair[1], int | float)]
        return np.array(counted, float).reshape(-1, 2)

    def minutes(
        self, steps: Float[np.ndarray, " points"]
    ) -> Float[np.ndarray, " points"]:
        """Return the training time up to each step, by the recorded speed."""
        rows = [row for row in self.rows["train"] if row.get("examples_per_second")]
        ends = np.array([0, *(row["step"] for row in rows)], float)
        rates = np.array([row["examples_per_second"] for row in rows])
        batches = np.array([row.get("batch_size", self.batch_size) for row in rows])
        examples = np.diff(ends) * batches * self.supervision_steps
        times = np.cumsum(examples / rates / 60)
        return np.interp(steps, ends, [0.0, *times])


def read_seeds(run: str) -> list[Curves]:
    """Read the curves of each seed of a run; one if it has no folders of seeds.

    Raises:
        UserError: if there is no run, or it has no metrics yet.
    """
    folder = absolute(open_path(run))
    seeds = sorted(folder.glob("seed*")) if not exists(folder / "config.json") else []
    return [Curves.read(seed) for seed in seeds or [folder]]


def mean_and_deviation(
    seeds: Sequence[Curves], metric: str, split: str, x: Axis
) -> Float[np.ndarray, "3 points"]:
    """Return x, mean and standard deviation over the seeds, at steps that all have."""
    points = [seed.points(metric, split) for seed in seeds]
    common = set.intersection(*(set(steps) for steps, _ in map(np.transpose, points)))
    steps = np.array(sorted(common))
    values = [p[np.searchsorted(p[:, 0], steps), 1] for p in points]
    ends = steps
    if x == "minutes":
        ends = np.mean([seed.minutes(steps) for seed in seeds], axis=0)
    return np.stack([ends, np.mean(values, axis=0), np.std(values, axis=0)])


def plot(
    runs: Sequence[str | Path],
    *,
    metrics: Sequence[str] = (),
    x: Axis = "steps",
    log: bool = False,
) -> "Figure":
    """Draw a panel per metric, with a color per run.

    Args:
        runs: folders of runs.
        metrics: names in `metrics.jsonl`; by default loss and accuracy.
        x: the horizontal axis.
        log: logarithmic axes for losses.

    Raises:
        UserError: if a package, a run or a metric is missing.
    """
    require(bool(runs), "No run to plot: give its folder.")
    curves = {str(run): read_seeds(str(run)) for run in runs}
    names = [absolute(open_path(run)).name for run in curves]
    if len(set(names)) < len(names):
        names = list(curves)
    rows = [row for seeds in curves.values() for s in seeds for row in s.rows["train"]]
    known = list(dict.fromkeys(name for row in rows for name in row))
    losses = [name for name in known if name.endswith("loss")]
    wanted = metrics or [*losses[:1], *({"exact_accuracy"} & {*known})]
    figure, panels = new_figure(len(wanted))
    for metric, panel in zip(wanted, panels, strict=True):
        for number, (name, seeds) in enumerate(
            zip(names, curves.values(), strict=True)
        ):
            _draw(panel, seeds, metric, x, number, name)
        require(
            bool(panel.lines),
            f"No run has the metric `{metric}`. Use one of "
            f"{', '.join(sorted({*known} - {'step', 'split'}))}.",
        )
        panel.set_xlabel("step" if x == "steps" else "minutes of training")
        panel.set_title(metric.replace("_", " "), loc="left", fontsize=11)
        finish(panel, legend=len(curves) <= FEW)
        if "accuracy" in metric:
            panel.set_ylim(-0.02, 1.02)
        elif log and "loss" in metric:
            panel.set_yscale("log")
    if len(curves) > FEW:
        _legend_beside(figure, names)
    return figure


def plot_tradeoff(files: Sequence[str | Path]) -> "Figure":
    """Draw the puzzles solved against the steps made, with a color per file.

    Raises:
        UserError: if a package is missing, or a file is no result of an evaluation.
    """
    require(bool(files), "No result to plot: give files of `train.evaluate`.")
    figure, (panel,) = new_figure(1)
    draw_tradeoff(panel, files, COLORS, MARKERS)
    finish(panel)
    return figure


def new_figure(panels: int) -> tuple["Figure", "Sequence[Axes]"]:
    """Return a figure with panels side by side.

    Raises:
        UserError: if matplotlib is missing.
    """
    require(
        find_spec("matplotlib") is not None,
        "Curves need the package matplotlib: run `pip install -e '.[show]'`.",
    )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * panels, 3.6), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def finish(panel: "Axes", legend: bool = True) -> None:
    """Add a grid, and a legend if wanted."""
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    if legend:
        panel.legend(frameon=False, fontsize=9)


def _legend_beside(figure: "Figure", names: Sequence[str]) -> None:
    """Draw one legend for all panels, with a line for each run."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], lw=2, ms=5, **_look(number)) for number in range(len(names))
    ]
    columns = ceil_div(len(names), 16)  # as many as fit
    place = {"loc": "outside right upper", "ncols": columns}
    figure.legend(lines, names, frameon=False, fontsize=9, **place)


def _look(number: int) -> dict[str, Any]:
    """Return color and marker of a run: 49 different pairs."""
    shift = number // len(COLORS)
    return {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[(number + shift) % len(MARKERS)],
    }


def _draw(
    panel: "Axes", seeds: Sequence[Curves], metric: str, x: Axis, number: int, name: str
) -> None:
    """Draw the curves of a metric of a run: of training, and of evaluations."""
    look = _look(number)
    color = look["color"]
    styles: dict[str, dict[str, Any]] = {
        "train": {"label": f"{name}, training", "alpha": 0.6, "lw": 1, "color": color},
        "eval": {"label": f"{name}, evaluation", "lw": 2, "ms": 5, **look},
    }
    for split, style in styles.items():
        at, mean, deviation = mean_and_deviation(seeds, metric, split, x)
        if len(at):
            panel.plot(at, mean, **style)
        if len(at) and len(seeds) > 1:
            low, high = mean - deviation, mean + deviation
            panel.fill_between(at, low, high, color=color, alpha=0.2, lw=0)


def save(figure: "Figure", out: str | Path) -> AnyPath:
    """Write the figure; the same figure gives the same file.

    Raises:
        UserError: if the file name ends in no known format, or the file cannot be
            written.
    """
    import matplotlib

    path = open_path(out)
    ending = path.suffix.lower()
    require(
        ending in (".svg", ".png", ".pdf"),
        f"`--out` must end in .svg, .png or .pdf: got `{out}`.",
    )
    require_writable(path)
    same: Any = {"svg.hashsalt": "curves", "svg.fonttype": "none"}
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(ending)
    with matplotlib.rc_context(same), whole_file(path) as file:
        figure.savefig(file, format=ending[1:], dpi=120, metadata=metadata)
    return path


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Raises:
        UserError: if an option or a run is wrong.
    """
    settings = tyro.cli(
        Settings, prog="python -m train.plot", description=__doc__, args=args
    )
    if settings.tradeoff:
        figure = plot_tradeoff(settings.runs)
    else:
        options = {"metrics": settings.metrics, "x": settings.x, "log": settings.log}
        figure = plot(settings.runs, **options)
    print(save(figure, settings.out))


if __name__ == "__main__":
    cli.run(main)
