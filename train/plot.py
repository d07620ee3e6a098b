"""Training curves of runs: `python -m train.plot RUN [RUN ...] --out curves.svg`.

    python -m train.plot runs/a runs/b --out curves.png --x minutes
    python -m train.plot runs/mine --metrics lm_loss accuracy q_halt_accuracy

Lines are of training, lines with points of evaluations. It only reads, so a run may be
going on. Needs the extra `show`.
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

from configs import require
from data.storage import absolute, exists, open_path, read_text
from train import cli
from train.runs.metrics_file import parse_lines
from train.runs.record import recorded_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette, which the colour-blind can tell apart."""

MARKERS = "osD^vPX"

METRICS = {"trm": ("lm_loss", "exact_accuracy"), "gpt": ("loss",)}
"""What is plotted of each kind of model unless something is asked for."""

Axis = Literal["steps", "minutes"]
Points = Float[np.ndarray, "points 2"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which runs to plot, and how."""

    runs: Positional[tuple[str, ...]]
    """Folders of runs."""

    out: str = "curves.svg"
    """File to write: `.svg`, `.png` or `.pdf`."""

    metrics: tuple[str, ...] = ()
    """A panel each, by the names in `metrics.jsonl`. Default: loss and accuracy."""

    x: Axis = "steps"
    """`minutes`: of training alone, without evaluations and compiling them."""

    log: bool = False
    """Logarithmic axes for losses."""


@dataclass(frozen=True)
class Curves:
    """What the metrics of a run say."""

    name: str
    kind: str
    rows: dict[str, list[dict[str, Any]]]
    """The lines of `train` and `eval`, in the order of steps."""

    batch_size: int
    """Of steps whose line of metrics does not say it."""

    supervision_steps: int
    """Of each batch: as often its examples were counted."""

    @classmethod
    def read(cls, run_dir: str) -> "Curves":
        """The curves of the run in this folder.

        Raises:
            UserError: if there is none, or it has no metrics yet.
        """
        config, record = recorded_run(run_dir)
        folder = absolute(open_path(run_dir))
        path = folder / "metrics.jsonl"
        text = read_text(path) if exists(path) else ""
        found, _ = parse_lines(text.splitlines())
        require(
            bool(found),
            f"A run must have metrics to plot: there are none in `{path}`. Wait for "
            "the first, or name another run.",
        )
        found.sort(key=lambda row: row["step"])
        rows = {
            split: [row for row in found if row.get("split") == split]
            for split in ("train", "eval")
        }
        passes = getattr(config, "supervision_steps", 1)
        return cls(folder.name, record["kind"], rows, config.batch_size, passes)

    def points(self, metric: str, split: str, x: Axis) -> Points:
        """Where a metric stands after steps or minutes, as far as it was counted.

        An evaluation of a GPT calls it `val_<metric>`.
        """
        rows = self.rows[split]
        value = lambda row: row.get(metric, row.get(f"val_{metric}"))
        kept = [row for row in rows if value(row) is not None]
        steps = np.array([row["step"] for row in kept], float)
        values = np.array([value(row) for row in kept], float)
        return np.stack([self.minutes(steps) if x == "minutes" else steps, values], 1)

    def minutes(
        self, steps: Float[np.ndarray, " points"]
    ) -> Float[np.ndarray, " points"]:
        """Time that training took up to each step, by the speed that was recorded."""
        rows = [row for row in self.rows["train"] if row.get("examples_per_second")]
        ends = np.array([0, *(row["step"] for row in rows)], float)
        rates = np.array([row["examples_per_second"] for row in rows])
        batches = np.array([row.get("batch_size", self.batch_size) for row in rows])
        examples = np.diff(ends) * batches * self.supervision_steps
        times = np.cumsum(examples / rates / 60)
        return np.interp(steps, ends, [0.0, *times])


def plot(
    runs: Sequence[str | Path],
    *,
    metrics: Sequence[str] = (),
    x: Axis = "steps",
    log: bool = False,
) -> "Figure":
    """A panel for each metric, a colour for each run.

    Args:
        runs: folders of runs.
        metrics: names in `metrics.jsonl`; by default loss and accuracy.
        x: what the curves run over.
        log: whether axes of losses are logarithmic.

    Raises:
        UserError: if a package, a run or a metric is missing.
    """
    require(
        find_spec("matplotlib") is not None,
        "Curves need the package matplotlib: it is not installed. Run "
        "`pip install -e '.[show]'`.",
    )
    require(bool(runs), "There must be a run to plot: got none. Name its folder.")
    from matplotlib.figure import Figure

    curves = [Curves.read(str(run)) for run in runs]
    names = [run.name for run in curves]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    wanted = list(metrics) or list(
        dict.fromkeys(name for run in curves for name in METRICS[run.kind])
    )
    figure = Figure(figsize=(5 * len(wanted), 3.6), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, len(wanted), squeeze=False)[0])
    for metric, panel in zip(wanted, axes, strict=True):
        drawn = [
            _draw(panel, run, metric, x, i, name)
            for i, (run, name) in enumerate(zip(curves, names, strict=True))
        ]
        known = {name for run in curves for row in run.rows["train"] for name in row}
        require(
            any(drawn),
            f"A metric must be one that the runs have: got `{metric}`. Use one of "
            f"{', '.join(sorted(known - {'step', 'split'}))}.",
        )
        panel.set_xlabel("step" if x == "steps" else "minutes of training")
        panel.set_title(metric.replace("_", " "), loc="left", fontsize=11)
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=9)
        if "accuracy" in metric:
            panel.set_ylim(-0.02, 1.02)
        elif log and "loss" in metric:
            panel.set_yscale("log")
    return figure


def _draw(
    panel: "Axes", run: Curves, metric: str, x: Axis, number: int, name: str
) -> bool:
    """Draw a run's curves of a metric; whether there are any."""
    colour = COLOURS[number % len(COLOURS)]
    marker = MARKERS[number % len(MARKERS)]
    train = run.points(metric, "train", x)
    test = run.points(metric, "eval", x)
    if len(train):
        panel.plot(*train.T, color=colour, alpha=0.6, lw=1, label=f"{name}, training")
    if len(test):
        panel.plot(
            *test.T,
            color=colour,
            lw=2,
            marker=marker,
            ms=5,
            label=f"{name}, evaluation",
        )
    return bool(len(train) or len(test))


def save(figure: "Figure", out: str | Path) -> Path:
    """Write the figure; the same figure gives the same file.

    Raises:
        UserError: if the ending names no format.
    """
    import matplotlib

    path = Path(out)
    ending = path.suffix.lower()
    require(
        ending in (".svg", ".png", ".pdf"),
        f"Curves must go to a file that ends in .svg, .png or .pdf: got `{out}`. "
        "Change `--out`.",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    same: Any = {"svg.hashsalt": "curves", "svg.fonttype": "none"}
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(ending)
    with matplotlib.rc_context(same):
        figure.savefig(path, dpi=120, metadata=metadata)
    return path


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own).

    Raises:
        UserError: if an option or a run is wrong.
    """
    settings = tyro.cli(
        Settings, prog="python -m train.plot", description=__doc__, args=args
    )
    figure = plot(
        settings.runs, metrics=settings.metrics, x=settings.x, log=settings.log
    )
    print(save(figure, settings.out))


if __name__ == "__main__":
    cli.run(main)
