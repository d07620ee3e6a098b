"""Compare methods at equal compute: `python -m benchmarks.methods --board 6x6`.

Every method trains for the seconds of TRM, on one core, with one thread. The cost of an
update is measured first, in turns with TRM's, and sets the number of updates. Then all
models answer the same test puzzles, in 8 to 128 steps and under 8 symmetries. Methods
without training of their own use TRM's models.

Runs and evaluations stay in `--work`. A second call makes what is missing, so seeds can
be added, and a comparison that was stopped goes on.

Examples:
    python -m benchmarks.methods --board 6x6 --cores 0 1
    python -m benchmarks.methods --board extreme --methods trm fresh --seeds 1
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from queue import Queue
from typing import Any, Literal

import tyro

from benchmarks import machine
from configs import require
from train.tradeoff import Point, read_points


@dataclass(frozen=True)
class Board:
    """A dataset, and how TRM learns it."""

    build: str
    """Options of `data.prepare`."""

    train: str
    """Preset and options."""

    puzzles: int
    """Of the training set: an epoch."""

    updates: int
    """Of TRM, in batches of 32."""


BOARDS = {
    "6x6": Board(
        "generate --size 6 --train 4000 --test 2000 --augmentations 8 --blanks 0.75",
        "quickstart --config.batch-size 32 --config.model.inner-multiple 256",
        4000,
        2000,
    ),
    "extreme": Board("sudoku", "sudoku-small", 1000, 15000),
}

ATTENTION = "--config.model.mixer attention --config.model.positions"
FLOW = "--config.model.flow stablemax"
METHODS = {
    "trm": "",
    "fresh": "--config.data.augment fresh",
    "infiloop": "--config.model.variant infiloop",
    "chains": "--config.act.chains 4",
    "flow": FLOW,
    "flow, pseudotargets": f"{FLOW} --config.act.pseudotargets HALF",
    "attention": f"{ATTENTION} rope",
    "attention, 2-D": f"{ATTENTION} rope2d",
    "attention, 2-D, conv": f"{ATTENTION} rope2d --config.model.gate conv",
}
"""Options in training. `HALF` stands for half of the updates."""

DEPTHS = (8, 16, 32, 64, 128)
EIGHT = "--rollouts.number 8 --rollouts"
UNTRAINED = {
    "8 attempts, sigma 1": f"{EIGHT}.sigma 1",
    "8 particles, sigma 1": f"{EIGHT}.sigma 1 --rollouts.particles",
    "32 rounds, sigma 1": "--rollouts.sigma 1 --rollouts.rounds 32",
}
"""Options of `train.evaluate` for models of TRM alone."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Board, methods, seeds, cores and folders of a comparison."""

    board: Literal["6x6", "extreme"] = "6x6"
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: tuple[int, ...] = (1, 2, 3)

    share: float = 1.0
    """Share of the board's updates."""

    puzzles: int = 1000
    """Test puzzles, the first ones."""

    cores: tuple[int, ...] = (0,)
    """Cores to use, each for one run at a time. Costs are measured on the first."""

    work: Path = Path("methods")
    """Folder of datasets, runs and evaluations."""

    out: Path = machine.RESULTS / "methods"
    """Folder of the results, one file a board."""

    def __post_init__(self) -> None:
        unknown = ", ".join(sorted({*self.methods} - {*METHODS}))
        require(
            not unknown and "trm" in self.methods,
            f"`--methods` must be `trm` and some of {', '.join(METHODS)}: got "
            f"{unknown or 'no `trm`'}.",
        )
        require(
            bool(self.seeds and self.cores),
            "`--seeds` and `--cores` must name one at least: got none.",
        )

    @property
    def folder(self) -> Path:
        """Folder of the board."""
        return self.work.absolute() / self.board


def call(module: str, words: Iterable[object], folder: Path) -> None:
    """Run a module with one thread, and write its output to the folder's `log`."""
    command = [sys.executable, "-m", module, *map(str, words)]
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    root = str(Path(__file__).parents[1])
    one_thread = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "OMP_NUM_THREADS": "1"}
    environment = os.environ | one_thread | {"PYTHONPATH": root}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("ab") as log:
        status = subprocess.call(command, stdout=log, stderr=log, env=environment)
    require(
        not status, f"`{' '.join(command)}` failed: got {status}. See {folder}/log."
    )


def train(
    settings: Settings, method: str, folder: Path, updates: int, *more: object
) -> list[dict[str, Any]]:
    """Train a method, or go on with it; return the lines of `metrics.jsonl`."""
    board = BOARDS[settings.board]
    epochs = updates * 32 / board.puzzles
    options = METHODS[method].replace("HALF", str(updates // 2)).split()
    options += ["--config.data.paths", settings.folder / "data"]
    options += ["--config.epochs", epochs, "--config.eval.epochs", epochs]
    options += ["--config.run-dir", folder / "run", *more]
    call("train.trm", [*board.train.split(), *options], folder)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def cost(settings: Settings, method: str, folder: Path) -> float:
    """Return the milliseconds of an update, the median of a short run."""
    more = ["--config.run.log-every", 20, "--config.eval.final-puzzles", 32]
    lines = train(settings, method, folder, 400, *more)
    speeds = [line["examples_per_second"] for line in lines if line["split"] == "train"]
    return 32e3 / statistics.median(speeds[1:])


def costs(settings: Settings) -> dict[str, list[float]]:
    """Return the costs of an update of every method, each over TRM's of the same turn.

    `trm` is TRM a second time: what it differs from 1 by is noise.
    """
    os.sched_setaffinity(0, settings.cores[:1])
    file = settings.folder / "costs.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    missing = [method for method in settings.methods if method not in found]
    for turn in range(3 if missing else 0):
        folder = settings.folder / f"cost {len(found)} {turn}"
        base = cost(settings, "trm", folder / "base")
        for method in missing:
            ratio = cost(settings, method, folder / method) / base
            found.setdefault(method, []).append(round(ratio, 3))
            print(f"an update of {method}: {ratio:.2f} of TRM's", flush=True)
    file.write_text(json.dumps(found))
    return found


def evaluate(settings: Settings, folder: Path, name: str, options: str) -> list[Point]:
    """Evaluate a run, unless that is done; return what it solves by steps."""
    out = folder / f"{name}.json"
    if not out.exists():
        words = ["--run-dir", folder / "run", "--checkpoints", "newest", "--out", out]
        words += ["--puzzles", settings.puzzles, *options.split()]
        call("train.evaluate", words, folder)
    return read_points(out)


def solved(settings: Settings, method: str, folder: Path) -> dict[str, float]:
    """Return the share of puzzles that a run solves, by what it may do."""
    ask = partial(evaluate, settings, folder)
    if "flow" in method:  # its noise depends on the number of steps to come
        last = {n: ask(f"{n} steps", f"--max-steps {n}")[-1] for n in DEPTHS}
    else:
        points = ask("steps", f"--max-steps {DEPTHS[-1]}")
        last = {n: points[n - 1] for n in DEPTHS}
    found = {f"{n} steps": point.solved for n, point in last.items()}
    found["8 symmetries"] = ask("symmetries", f"{EIGHT}.symmetries")[-1].solved
    for name, options in UNTRAINED.items() if method == "trm" else ():
        found[name] = ask(name, options)[-1].solved
    return found


def run(settings: Settings, method: str, seed: int, ratio: float) -> dict[str, Any]:
    """Train and evaluate a method with a seed."""
    updates = round(BOARDS[settings.board].updates * settings.share / ratio)
    folder = settings.folder / f"{method} {seed}"
    lines = train(settings, method, folder, updates, "--config.seed", seed)
    rows = [line for line in lines if line["split"] == "train"]
    row = {
        "method": method,
        "seed": seed,
        "updates": rows[-1]["step"],
        "solved": solved(settings, method, folder),
    }
    print(row, flush=True)
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return mean and deviation over the seeds, in percent, as Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row["solved"]))
    lines = [["", "updates", *names], ["---"] * (len(names) + 2)]
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        cells = [method, str(mine[0]["updates"])]
        for name in names:
            shares = [
                100 * row["solved"][name] for row in mine if name in row["solved"]
            ]
            spread = f" +- {statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
            cells.append(f"{statistics.mean(shares):.1f}{spread}" if shares else "")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(settings: Settings) -> None:
    """Compare, print a table, and write one JSON file."""
    data = settings.folder / "data"
    if not data.exists():
        words = [*BOARDS[settings.board].build.split(), "--out", data]
        call("data.prepare", words, settings.folder)
    ratios = costs(settings)
    cores: Queue[int] = Queue()
    for core in settings.cores:
        cores.put(core)

    def on_a_core(seed: int, method: str) -> dict[str, Any]:
        os.sched_setaffinity(0, {core := cores.get()})  # of this thread
        try:
            ratio = 1.0 if method == "trm" else statistics.median(ratios[method])
            return run(settings, method, seed, ratio)
        finally:
            cores.put(core)

    with ThreadPoolExecutor(len(settings.cores)) as pool:
        pairs = list(product(settings.seeds, settings.methods))
        rows = list(pool.map(on_a_core, *zip(*pairs, strict=True)))
    print(table(rows))
    record = {
        **machine.about(),
        "commit": machine.commit(machine.RESULTS),
        "board": settings.board,
        "share": settings.share,
        "puzzles": settings.puzzles,
        "costs": ratios,
        "rows": rows,
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    file = settings.out / f"{settings.board}.json"
    file.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
