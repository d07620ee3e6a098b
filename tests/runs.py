"""Start scripts as child processes, for tests of whole runs."""

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from configs import (
    GeneratedSudoku,
    MeshConfig,
    PuzzleDataConfig,
    TextFiles,
    TrainTRM,
)
from data.build import prepare
from data.storage import AnyPath
from train.presets import TRM_PRESETS

ROOT = Path(__file__).parent.parent
RATES = ("examples_per_second", "tokens_per_second", "data_wait_seconds")
DEVICES = " --xla_force_host_platform_device_count={}"
Settings = dict[str, object]

TINY: Settings = {
    "batch-size": 8,
    "model.dim": 16,
    "model.puzzle-dim": 16,
    "model.layers": 1,
    "act.max-steps": 3,
    "eval.batch-size": 8,
    "run.log-every": 1,
}
"""A tiny TRM that evaluates and logs often."""

TINY_GPT: Settings = {
    "batch-size": 8,
    "microbatch-size": 4,
    "model.n-layer": 2,
    "model.n-head": 2,
    "model.n-embd": 16,
    "model.block-size": 8,
    "model.dropout": 0.2,
    "eval.iters": 3,
    "run.save": "always",
    "run.save-every": 4,
    "run.log-every": 1,
}
"""A tiny GPT that logs often."""


def named_sudoku(folder: Path) -> None:
    """Write 4x4 Sudoku with 13 identifiers, for a puzzle table of 14 rows."""
    prepare(GeneratedSudoku(size=4, train=64, test=16), folder)
    for split, count in (("train", 64), ("test", 16)):
        about = json.loads((folder / split / "dataset.json").read_text())
        about["num_puzzle_identifiers"] = 14
        (folder / split / "dataset.json").write_text(json.dumps(about))
        names = 1 + np.arange(count, dtype=np.int32) % 13
        np.save(folder / split / "all__puzzle_identifiers.npy", names)


def short_text(folder: Path) -> None:
    """Write a text of 40 equal lines, and its characters as a dataset."""
    source = folder.with_suffix(".txt")
    source.write_text("to be or not to be, that is the question\n" * 40)
    prepare(TextFiles(input=(str(source),), tokens="char"), folder)


def quick(dataset: Path, **changes: Any) -> TrainTRM:
    """Return `quickstart` for 4 epochs with batches of 8 puzzles, on one device."""
    base = replace(
        TRM_PRESETS["quickstart"][1],
        batch_size=8,
        epochs=4.0,
        data=PuzzleDataConfig(paths=(str(dataset),), build=None, block=4),
        mesh=MeshConfig(data=1),
    )
    return replace(base, **changes)


def words(preset: str, settings: Settings) -> list[str]:
    """Return the arguments of a command line."""
    pairs = [(f"--config.{name}", str(value)) for name, value in settings.items()]
    return [preset, *(word for pair in pairs for word in pair)]


def mesh_words(processes: int) -> list[list[str]]:
    """Return more arguments of each process of a run of several on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mesh = ["--config.mesh.distributed", "--config.mesh.coordinator"]
    mesh += [f"127.0.0.1:{port}", "--config.mesh.processes", str(processes)]
    return [[*mesh, "--config.mesh.process", str(i)] for i in range(processes)]


@cache
def programs() -> str:
    """Return a folder for compiled programs; not shared, since some runs are killed."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return folder.name


def environment(devices: int = 1, **variables: str) -> dict[str, str]:
    """Return the environment of a process with `devices` CPU devices."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        # The last word counts.
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + DEVICES.format(devices),
        "JAX_COMPILATION_CACHE_DIR": programs(),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "HF_HUB_OFFLINE": "1",
        **variables,
    }


def launch(
    argv: Sequence[str], devices: int = 1, **variables: str
) -> subprocess.Popen[str]:
    """Start Python with these arguments."""
    return subprocess.Popen(
        [sys.executable, *argv],
        cwd=ROOT,
        env=environment(devices, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start(
    module: str, argv: Sequence[str], devices: int = 1, **variables: str
) -> subprocess.Popen[str]:
    """Start a module."""
    return launch(["-m", module, *argv], devices, **variables)


def trm_words(dataset: Path, folder: Path, **more: object) -> list[str]:
    """Return the arguments of a run of 96 steps with an evaluation every 24."""
    settings = {"data.paths": dataset, "run-dir": folder, "epochs": 12}
    settings |= {"optim.warmup": 20, "eval.epochs": 3, "run.save-every": 4}
    return words("quickstart", {**TINY, **settings, **more})


def start_trm(
    dataset: Path, folder: Path, devices: int = 1, **more: object
) -> subprocess.Popen[str]:
    """Start the run of `trm_words`."""
    return start("train.trm", trm_words(dataset, folder, **more), devices)


def finish(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    """Wait for a process, check its status, and return its stdout and stderr."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == status, out[-2000:] + err[-4000:]
    return out, err


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until a condition holds, while a process runs."""
    end = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


def metrics(folder: AnyPath) -> list[dict]:
    """Return all lines of metrics, without the fields that depend on time."""
    text = (folder / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    lines = [line for line in lines if line["split"] != "time"]
    assert all(line["examples_per_second"] > 0 for line in lines)
    return [{k: v for k, v in line.items() if k not in RATES} for line in lines]


def last_step(folder: Path) -> int:
    """Return the step of the newest complete line of metrics; 0 without one."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    return json.loads(whole[-1])["step"] if whole else 0
