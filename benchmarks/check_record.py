"""Check the files of a record: `python -m benchmarks.check_record FILE FILE FILE`.

Prints the record's line for `benchmarks/records/README.md`, which has the rules. The
files are written by `benchmarks.time_to_accuracy run`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from configs import require
from train import cli

SEEDS = 3
"""Runs of a record."""

SAME = ("task", "recipe", "metric", "commit", "cpu", "cores", "devices", "prepared")
"""Fields in which the runs of a record agree."""


@dataclass(frozen=True)
class Target:
    """The target of a task: a metric, its value, and the hardware."""

    metric: str
    """Metric of the last evaluation."""

    value: float
    """The mean over the seeds is at least this, for a loss at most."""

    cores: int | None = None
    """Cores of the processor, without an accelerator. None: one accelerator."""

    def reached(self, value: float) -> bool:
        """Return whether a value is good enough."""
        is_loss = self.metric.endswith("loss")
        return value <= self.value if is_loss else value >= self.value

    def allows(self, cores: int, devices: str) -> bool:
        """Return whether the task may run on this hardware."""
        if self.cores is None:
            return devices.startswith("1 x ") and devices != "1 x cpu"
        return devices == "1 x cpu" and cores == self.cores


TARGETS = {
    "6x6 Sudoku": Target("exact_accuracy", 0.99, cores=2),
    "tiny Shakespeare": Target("val_loss", 1.90, cores=1),
    "Sudoku-Extreme 1k": Target("exact_accuracy", 0.87),
}
"""By the task of `benchmarks.time_to_accuracy run`."""

Record = dict[str, Any]
"""Content of a file."""


def check(runs: Sequence[Record]) -> None:
    """Raise `UserError` if the runs break a rule, or do not reach the target."""
    first, seeds = runs[0], [run["seed"] for run in runs]
    require(
        len(seeds) == len(set(seeds)) == SEEDS and None not in seeds,
        f"A record must be {SEEDS} runs of different seeds: got {seeds}. Use `--seeds "
        "1 2 3`.",
    )
    values = {name: {run[name] for run in runs} for name in SAME}
    values["command"] = {without_seed(run) for run in runs}
    for name, different in values.items():
        require(
            len(different) == 1,
            f"The runs of a record must have the same `{name}`: got "
            f"{', '.join(map(str, sorted(different)))}. Make them by one command.",
        )
    require(
        len(first["commit"]) == 40,
        f"The code must be committed: the commit is `{first['commit']}`. Commit all "
        "changes and run again.",
    )
    require(
        first["task"] in TARGETS,
        f"`--task` must be one of {', '.join(TARGETS)}: got {first['task']}.",
    )
    target, last = TARGETS[first["task"]], [final(run) for run in runs]
    wanted = f"{target.cores} cores" if target.cores else "one accelerator"
    require(
        target.allows(first["cores"], first["devices"]),
        f"{first['task']} must run on {wanted}: got {first['cores']} cores and "
        f"{first['devices']}. See `--cores`.",
    )
    require(
        first["metric"] == target.metric,
        f"`--metric` must be {target.metric}: got {first['metric']}.",
    )
    require(
        target.reached(mean(last)),
        f"The mean {target.metric} must reach {target.value}: it is {mean(last):.4f}.",
    )


def line(runs: Sequence[Record]) -> str:
    """Return the line of a record in the table of its task."""
    first, seconds = runs[0], [run["seconds"] for run in runs]
    on_cpu = first["devices"] == "1 x cpu"
    cells = (
        f"{mean(seconds):.1f}",
        ", ".join(f"{value:.1f}" for value in seconds),
        ", ".join(f"{final(run):.4f}" for run in runs),
        f"{first['cores']} x {first['cpu']}" if on_cpu else first["devices"],
        f"`{without_seed(first)}`",
        f"`{first['commit'][:7]}`",
        first["date"],
    )
    return f"| {' | '.join(cells)} |"


def final(run: Record) -> float:
    """Return the value of the last evaluation."""
    return run["curve"][-1][2]


def without_seed(run: Record) -> str:
    """Return the command of a run without its seed."""
    return run["command"].removesuffix(f" --config.seed {run['seed']}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Files of a record."""

    files: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(name="FILE")] = ()
    """JSON files, one a seed."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line `args` (None: the process's own)."""
    settings = tyro.cli(
        Settings,
        prog="python -m benchmarks.check_record",
        description=__doc__,
        args=args,
    )
    require(bool(settings.files), "A record must have files: got none. Name them.")
    runs = [json.loads(file.read_text()) for file in settings.files]
    check(runs)
    print(line(runs))


if __name__ == "__main__":
    cli.run(main)
