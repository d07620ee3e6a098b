"""Kill runs at random moments, and compare how they end: `python -m benchmarks.kills`.

Each case is a tiny run, first made twice without a kill. A trial starts the run in a
new folder, kills it with SIGKILL after a random time, and starts it again, until it
ends before its kill or has had 20. Of five kills one falls before the first step on
average, the others after a line of training is printed, in at most half the seconds
that the steps take. One trial in five has no compiled programs. Of two processes one is
killed, and the other within a second. A kill counts if its process was alive.

A run is identical if all arrays of its last checkpoint are, bit by bit as read from the
files, and all lines of `metrics.jsonl` except for times. Each line is one dispatch, so
that no mean over steps starts anew after a kill.

Processes are forked from one that has imported everything, which saves seconds each.

Example:
    python -m benchmarks.kills --kills 1000
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = ""  # every run has its own
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles faster

import argparse
import atexit
import json
import multiprocessing
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import repeat
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from benchmarks import machine
from tests import runs
from train import cli, gpt, trm
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.runs.stored import saved_steps

FORK: Any = multiprocessing.get_context("fork")
SCRIPTS = {"trm": (trm.main, TRM_PRESETS), "gpt": (gpt.main, GPT_PRESETS)}
SETTINGS: dict[str, runs.Settings] = {
    "trm": {**runs.TINY, "data.paths": "trm", "epochs": 9, "eval.epochs": 3},
    "gpt": {**runs.TINY_GPT, "data.path": "gpt", "max-iters": 72, "eval.interval": 24},
}


@dataclass(frozen=True)
class Case:
    """A tiny run: a script, a preset, and changes to `SETTINGS`."""

    script: str
    preset: str
    changes: runs.Settings = field(default_factory=dict)
    processes: int = 1


DEPTH: runs.Settings = {
    "depth-schedule": "20:1x2,50%:2x2",
    "batch-schedule": "30:16,50:4",
}
BATCH: runs.Settings = {"batch-schedule": "34:16,60:4", "batch-lr": "sqrt"}
CASES = {  # the slowest first
    "trm, 2 processes": Case("trm", "quickstart", processes=2),
    "trm, depth and batch": Case("trm", "quickstart", DEPTH),
    "gpt, batch": Case("gpt", "shakespeare-char-cpu", BATCH),
    "trm": Case("trm", "quickstart"),
    "trm, Muon": Case("trm", "sudoku-easy", {"steps-per-call": 2}),
    "trm, bfloat16": Case("trm", "quickstart", {"precision": "bfloat16"}),
    "gpt": Case("gpt", "shakespeare-char-cpu"),
    "gpt, Muon": Case("gpt", "shakespeare-char-fast"),
    "gpt, float16": Case("gpt", "shakespeare-char-cpu", {"precision": "float16"}),
}
MOST = 20
"""Kills of a trial."""

Contents = dict[str, Any]
"""Hashes of the last arrays and lines of metrics, by name."""


def run_script(script: str, words: Sequence[str], folder: Path) -> None:
    """Run a script in this process as its command does, with its output in a file."""
    with (folder / "out").open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    main, presets = SCRIPTS[script]
    try:
        cli.run(lambda: main(*cli.parse(presets, "", words)))
    finally:
        atexit._run_exitfuncs()  # before Python 3.13 forked processes leave them out


def start(case: Case, folder: Path) -> list[Any]:
    """Start or resume a run in a folder; return its processes."""
    where = {"run-dir": folder / "run", "run.compilation-cache": folder / "programs"}
    settings = {**SETTINGS[case.script], "run.save-every": 6, **where, **case.changes}
    words = runs.words(case.preset, settings)
    (folder / "out").write_text("start\n")
    started = []
    for more in runs.mesh_words(case.processes) if case.processes > 1 else [[]]:
        args = (case.script, words + more, folder)
        started.append(FORK.Process(target=run_script, args=args))
        started[-1].start()
    return started


def kill(started: Sequence[Any], rng: np.random.Generator) -> bool:
    """Kill the processes of a run in random order; False if the first had ended."""
    first, *others = (started[i] for i in rng.permutation(len(started)))
    first.kill()
    first.join()
    if first.exitcode != -signal.SIGKILL:
        return False
    for process in others:
        time.sleep(rng.uniform())
        process.kill()
        process.join()
    return True


def phase(folder: Path) -> str:
    """Return what a run is doing, or did when it was killed, by its output and files.

    `steps` are all after the first, evaluations and the end of the run among them.
    """
    lines = (folder / "out").read_text().splitlines()
    if not any(line.startswith("train ") for line in lines):
        return "compile" if len(lines) > 1 else "start"
    saves = any((folder / "run" / "checkpoints").glob("*-tmp"))
    return "save" if saves else "steps"


def await_steps(started: Sequence[Any], folder: Path) -> None:
    """Wait until a run has printed a line of training, or one of its processes ends."""
    while phase(folder) in ("start", "compile"):
        if wait([process.sentinel for process in started], 0.02):
            break


def hashes(checkpoints: Path) -> dict[str, str]:
    """Return the hash of every array of the newest checkpoint, by name."""
    found, newest = {}, checkpoints / str(max(saved_steps(checkpoints)))
    for part in sorted(newest.glob("*/manifest.ocdbt")):
        store = {"driver": "ocdbt", "base": f"file://{part.parent}/"}
        for key in tensorstore.KvStore.open(store).result().list().result():
            path, _, file = key.decode().rpartition("/")
            if file == ".zarray":
                spec = {"driver": "zarr", "kvstore": {**store, "path": path}}
                array = tensorstore.open(spec).result().read().result()
                kind = f"{array.dtype}{array.shape}".encode()
                name = f"{newest.name}.{part.parent.name}.{path}"
                found[name] = sha256(kind + array.tobytes()).hexdigest()
    assert found, f"no arrays in {newest}"
    return found


def contents(started: Sequence[Any], folder: Path) -> Contents:
    """Return the contents of a run once it has ended."""
    end = time.monotonic() + 600
    for process in started:
        process.join(end - time.monotonic())
        process.kill()
        process.join()
    if any(process.exitcode for process in started):
        return {"exit status": [process.exitcode for process in started]}
    with ProcessPoolExecutor(1, FORK) as apart:  # tensorstore starts threads
        arrays = apart.submit(hashes, folder / "run" / "checkpoints").result()
    lines = enumerate(runs.metrics(folder / "run"))
    return {**arrays, **{f"line {number} of metrics": line for number, line in lines}}


def trial(
    case: Case,
    folder: Path,
    rng: np.random.Generator,
    kills: int,
    early: float,
    late: float,
) -> tuple[Contents, Counter[str]]:
    """Return the contents of a run that was killed, and its kills in each phase.

    The kills fall within `early` seconds of a start, or `late` ones of the first line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    killed: Counter[str] = Counter()
    started = start(case, folder)
    while killed.total() < kills:
        span = early if rng.uniform() < 0.2 else late
        if span == late:
            await_steps(started, folder)
        ends = [process.sentinel for process in started]
        if wait(ends, rng.uniform(0, span)) or not kill(started, rng):
            break
        killed[phase(folder)] += 1
        started = start(case, folder)
    return contents(started, folder), killed


def trials(name: str, kills: int, seed: int) -> Counter[str]:
    """Make trials of a case until there are `kills` kills; return the counts."""
    case, rng = CASES[name], np.random.default_rng([seed, *name.encode()])
    base = Path(name).absolute()
    base.mkdir(exist_ok=True)
    expected = contents(start(case, base), base)
    assert "exit status" not in expected, (base / "out").read_text()
    shutil.rmtree(base / "run")
    since, started = time.monotonic(), start(case, base)
    await_steps(started, base)
    first = time.monotonic()
    again, end = contents(started, base), time.monotonic()
    assert again == expected, f"{name}: two runs without a kill differ"
    spans = first - since, 0.5 * (end - first)
    killed, verdicts = Counter[str](), []
    while killed.total() < kills:
        folder = base / str(len(verdicts))
        if rng.uniform() < 0.8:
            shutil.copytree(base / "programs", folder / "programs")
        most = min(MOST, kills - killed.total())
        found, phases = trial(case, folder, rng, most, *spans)
        names = sorted({**expected, **found}, key=lambda key: key in expected)
        differ = [key for key in names if found.get(key) != expected.get(key)]
        verdicts.append(f"{differ[0]} differs, see {folder}" if differ else "identical")
        killed += phases
        print(f"{name}: {phases.total()} kills, {verdicts[-1]}", flush=True)
        if not differ:
            shutil.rmtree(folder)
    same = verdicts.count("identical")
    counts = {"kills": killed.total(), "runs": len(verdicts), "identical": same}
    return Counter(counts) + killed


def main() -> None:
    """Make the trials of all cases, print their counts, and write these to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, help="of all cases together")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    parser.add_argument("--out", type=Path, default=machine.RESULTS / "kills.json")
    given, since = parser.parse_args(), time.monotonic()
    given.out = given.out.absolute()
    os.chdir(tempfile.mkdtemp(prefix="kills-"))
    runs.named_sudoku(Path("trm"))
    runs.short_text(Path("gpt"))
    each = [len(range(i, given.kills, len(CASES))) for i in range(len(CASES))]
    with ProcessPoolExecutor(given.jobs, FORK) as pool:
        rows = list(pool.map(trials, CASES, each, repeat(given.seed)))
    total = sum(rows, Counter())
    for name, row in zip([*CASES, "all"], [*rows, total], strict=True):
        print(f"{name:22s}" + "".join(f"{row[key]:>6d} {key}" for key in total))
    record = {
        **machine.about("orbax-checkpoint"),
        "commit": machine.commit(machine.RESULTS),
        "seconds": round(time.monotonic() - since),
        "all": total,
        **dict(zip(CASES, rows, strict=True)),
    }
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    if total["identical"] < total["runs"]:
        raise SystemExit(1)
    shutil.rmtree(Path.cwd())


if __name__ == "__main__":
    main()
