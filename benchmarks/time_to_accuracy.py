"""Plot accuracy over the time of a command: `python -m benchmarks.time_to_accuracy`.

`run` trains in an empty folder without compiled programs, and records the seconds from
the start of the command to each evaluation. `draw` makes a figure of all records: a
panel per task, a line per run.

Examples:
    python -m benchmarks.time_to_accuracy run --task "6x6 Sudoku" --recipe reference \
        --command "train.trm quickstart --config.seed 1"
    python -m benchmarks.time_to_accuracy draw
"""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from benchmarks import machine
from configs import require
from train import cli

FOLDER = machine.RESULTS / "time_to_accuracy"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A command, and the name of its run in the figure."""

    command: str
    """Module and options, without `--config.run-dir`."""

    task: str
    """Title of the panel."""

    recipe: str
    """Name in the legend, which runs of several seeds share."""

    seeds: tuple[int, ...] = ()
    """Run the command once per seed, one after the other. Empty: once, as it is."""

    metric: str = "exact_accuracy"
    """Metric to record of each evaluation."""

    datasets: Path | None = None
    """Folder with prepared datasets, the command's `datasets`. None: it prepares them.
    """

    cores: tuple[int, ...] = ()
    """Cores to use. Empty: all."""

    out: Path = FOLDER
    """Folder of the JSON files, one a run."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Folders of the runs and of the figure."""

    results: Path = FOLDER
    """Folder of the JSON files."""

    out: Path = Path("docs/time-to-accuracy.svg")
    """File of the figure."""


def follow(
    metrics: Path, metric: str, running: Callable[[], bool]
) -> list[tuple[float, int, float]]:
    """Return seconds, step and value of each evaluation, as lines of a file appear."""
    start, curve, seen = time.perf_counter(), [], 0
    more = True
    while more:
        more = running()  # before reading, so that the last lines are read
        lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
        seconds = time.perf_counter() - start
        for row in map(json.loads, lines[seen:]):
            if row["split"] == "eval":
                curve.append((round(seconds, 2), row["step"], row[metric]))
        seen = len(lines)
        time.sleep(0.02 * more)
    return curve


def run(settings: Run, seed: int | None = None) -> Path:
    """Run the command, with a seed if there is one; return the file of its evaluations.

    Raises:
        UserError: if the command fails or evaluates nothing.
    """
    if settings.cores:
        os.sched_setaffinity(0, settings.cores)
    root, command = Path.cwd(), settings.command
    if seed is not None:
        command += f" --config.seed {seed}"
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "home").mkdir()
        if settings.datasets is not None:
            (scratch / "datasets").symlink_to(settings.datasets.resolve())
        start = time.perf_counter()
        process = machine.start(command, root, scratch)
        running = lambda: process.poll() is None
        curve = follow(scratch / "run" / "metrics.jsonl", settings.metric, running)
        seconds = time.perf_counter() - start
    require(
        process.returncode == 0 and bool(curve),
        f"`{command}` failed: got status {process.returncode} and "
        f"{len(curve)} evaluations. See above.",
    )
    record = {
        "task": settings.task,
        "recipe": settings.recipe,
        "command": command,
        "seed": seed,
        "prepared": settings.datasets is not None,
        "metric": settings.metric,
        "seconds": round(seconds, 2),
        "curve": curve,
        **machine.about(),
        "cores": len(settings.cores) or os.cpu_count(),
        "devices": machine.devices(),
        "commit": machine.commit(root),
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    each = "" if seed is None else f"seed {seed} "
    name = f"{settings.task} {settings.recipe} {each}{time.strftime('%H%M%S')}"
    path = settings.out / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.json"
    path.write_text(json.dumps(record) + "\n")
    print(f"{path}: {curve[-1][2]:.4f} after {seconds:.1f} s")
    return path


def draw(records: Sequence[dict[str, Any]]) -> Any:
    """Draw a panel per task, a color per recipe, a line per run."""
    from matplotlib.figure import Figure

    from train.plot import COLORS, MARKERS

    tasks = list(dict.fromkeys(record["task"] for record in records))
    require(bool(tasks), "There must be runs to draw: got none. Make some by `run`.")
    figure = Figure(figsize=(5 * len(tasks), 3.6), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for task, panel in zip(tasks, panels, strict=True):
        runs = [record for record in records if record["task"] == task]
        recipes = list(dict.fromkeys(record["recipe"] for record in runs))
        for record in runs:
            number = recipes.index(record["recipe"])
            first = record is next(r for r in runs if r["recipe"] == record["recipe"])
            times, _, values = zip(*record["curve"], strict=True)
            panel.plot(
                times,
                values,
                color=COLORS[number],
                marker=MARKERS[number],
                ms=4,
                lw=1.5,
                label=record["recipe"] if first else None,
            )
        panel.set_title(task, loc="left", fontsize=11)
        panel.set_xlabel("seconds since the command")
        panel.set_ylabel(runs[0]["metric"].replace("_", " "))
        panel.set_xlim(left=0)
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=9)
    return figure


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own)."""
    settings = tyro.cli(
        Annotated[Run, subcommand("run")] | Annotated[Draw, subcommand("draw")],  # pyright: ignore[reportArgumentType]
        prog="python -m benchmarks.time_to_accuracy",
        description=__doc__,
        args=args,
    )
    if isinstance(settings, Run):
        for seed in settings.seeds or (None,):
            run(settings, seed)
        return
    from train.plot import save

    files = sorted(settings.results.glob("[!.]*.json"))
    records = [json.loads(file.read_text()) for file in files]
    print(save(draw(records), settings.out))


if __name__ == "__main__":
    cli.run(main)
