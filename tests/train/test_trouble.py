"""Runs whose signals come early, whose disks fill up, whose output breaks."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from configs import GeneratedSudoku
from data.build import prepare
from tests import runs
from tests.runs import ROOT, finish, last_step, metrics, wait_for
from tests.train.test_run import SETTINGS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "sudoku-4x4"
    prepare(GeneratedSudoku(size=4, train=64, test=16), folder)
    return folder


def words(dataset: Path, folder: Path, **more: object) -> list[str]:
    where = {"data.paths": dataset, "epochs": 12, "run-dir": folder}
    return runs.words("quickstart", {**SETTINGS, **where, **more})


def start(dataset: Path, folder: Path, **more: object) -> subprocess.Popen[str]:
    return runs.start("train.trm", words(dataset, folder, **more))


@pytest.fixture(scope="module")
def complete(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("complete") / "run"
    finish(start(dataset, folder))
    return folder


# -- signals ---------------------------------------------------------------------------


READY = """
from train import cli, trm
from train.presets import TRM_PRESETS
def main():
    print("ready", flush=True)
    return trm.main(*cli.parse(TRM_PRESETS, ""))
cli.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("after", [0.0, 1.0, 2.0])
def test_a_signal_before_the_first_step_ends_it_at_once(
    dataset: Path, tmp_path: Path, number: signal.Signals, after: float
) -> None:
    """While it reads or compiles."""
    process = subprocess.Popen(
        [sys.executable, "-c", READY, *words(dataset, tmp_path / "run")],
        cwd=ROOT,
        env=runs.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(after)
    process.send_signal(number)
    since = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - since < 5.0
    assert process.returncode in (-number, 128 + number)
    assert "Traceback" not in err


def test_a_hang_up_saves(dataset: Path, tmp_path: Path) -> None:
    process = start(dataset, tmp_path / "run", **{"run.save-every": 1000})
    wait_for(lambda: last_step(tmp_path / "run") >= 5, process)
    process.send_signal(signal.SIGHUP)
    out, _ = finish(process, 128 + signal.SIGHUP)
    assert "which is saved" in out


SLOW_EVALUATION = """
from train import cli
import time
from train.presets import TRM_PRESETS
from train import trm
splits = trm.test_splits
def slowly(*arguments):
    from dataclasses import replace
    split, = splits(*arguments)
    def batch(index):
        time.sleep(10)
        return split.batch(index)
    return [replace(split, batches=2 * split.batches, batch=lambda i: batch(i % 2))]
trm.test_splits = slowly
cli.run(lambda: trm.main(*cli.parse(TRM_PRESETS, "")))
"""


def test_an_evaluation_is_left_and_made_up_for(
    complete: Path, dataset: Path, tmp_path: Path
) -> None:
    """The state is saved before it, and the same command evaluates it first."""
    folder = tmp_path / "run"
    command = [sys.executable, "-c", SLOW_EVALUATION, *words(dataset, folder)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=runs.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: (folder / "checkpoints" / "24").is_dir(), process)
    process.send_signal(signal.SIGTERM)
    since = time.monotonic()
    out, _ = finish(process, 143)
    assert time.monotonic() - since < 30, "less than the four batches take"
    assert "Stopped at step 24, which is saved" in out
    finish(start(dataset, folder))
    assert metrics(folder) == metrics(complete)


SLOW_COMPILING = """
from train import cli
import time
from train.presets import TRM_PRESETS
from train import trm
from train.watch import compiling
compiled = compiling.compiled
class Slow:
    def compile(self):
        print("begun", flush=True)
        time.sleep(100)
def slowly(lowered, what, *rest):
    return compiled(Slow() if "evaluation" in what else lowered, what, *rest)
compiling.compiled = slowly
cli.run(lambda: trm.main(*cli.parse(TRM_PRESETS, "")))
"""


def test_compiling_an_evaluation_is_left(dataset: Path, tmp_path: Path) -> None:
    """What compiles goes on in a thread: nothing waits for it."""
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_COMPILING, *words(dataset, folder)],
        cwd=ROOT,
        env=runs.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while process.stdout.readline() != "begun\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    since = time.monotonic()
    out, err = finish(process, 130)
    assert time.monotonic() - since < 50
    assert "Stopped at step 24, which is saved" in out
    assert err == ""
    assert (folder / "checkpoints" / "24").is_dir()


# -- disks -----------------------------------------------------------------------------

LITTLE_ROOM = """
import resource, sys
ROOM = int(sys.argv.pop(1))
from train import cli
from train.presets import TRM_PRESETS
from train import trm
from train.runs import checkpoint
save = checkpoint.Checkpoints.save
def save_with_little_room(self, state):
    if int(state.step) >= 8:
        self.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))
    save(self, state)
checkpoint.Checkpoints.save = save_with_little_room
cli.run(lambda: trm.main(*cli.parse(TRM_PRESETS, "")))
"""


def test_a_disk_that_fills_up(complete: Path, dataset: Path, tmp_path: Path) -> None:
    """It is noticed at the next dispatch; with room again the run goes on."""
    folder = tmp_path / "run"
    room = "10000"  # for metrics, not for a state
    command = [sys.executable, "-c", LITTLE_ROOM, room, *words(dataset, folder)]
    since = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env=runs.environment(), capture_output=True, text=True
    )
    assert time.monotonic() - since < 100, "no waiting for what never comes"
    assert done.returncode == 1
    assert re.search("state of step 8 .* that of step 4", done.stderr)
    assert "Traceback" not in done.stderr
    finish(start(dataset, folder))
    assert metrics(folder) == metrics(complete)


def test_no_room_for_metrics(dataset: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        LITTLE_ROOM,
        "0",
        *words(dataset, tmp_path / "run"),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=runs.environment(), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "error: Could not" in done.stderr
    assert "Traceback" not in done.stderr


# -- output ----------------------------------------------------------------------------


def leave_early(command: list[str]) -> str:
    return f"{' '.join(command)} | head -1"


def close(command: list[str]) -> str:
    return f"{' '.join(command)} >&-"


def fill(command: list[str]) -> str:
    return f"{' '.join(command)} > /dev/full"


@pytest.mark.parametrize("spoil", [leave_early, close, fill])
def test_output_that_breaks_ends_no_run(
    complete: Path, dataset: Path, tmp_path: Path, spoil: Callable[[list[str]], str]
) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "train.trm", *words(dataset, folder)]
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", spoil(command)],
        cwd=ROOT,
        env=runs.environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert metrics(folder) == metrics(complete)


def test_metrics_removed_under_a_run_are_written_again(
    complete: Path, dataset: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = start(dataset, folder)
    wait_for(lambda: last_step(folder) >= 5, process)
    (folder / "metrics.jsonl").unlink()
    _, err = finish(process)
    assert "metrics.jsonl` was removed" in err
    assert metrics(folder) == metrics(complete)


# -- weights ---------------------------------------------------------------------------


def test_a_start_that_diverged_can_be_mended(dataset: Path, tmp_path: Path) -> None:
    """Nothing was saved, so the corrected command may use the directory."""
    bad = {"optim.name": "adamw", "optim.lr": "1e38", "optim.weight-decay": 0.0}
    folder = tmp_path / "run"
    _, err = finish(start(dataset, folder, **bad), 1)
    assert "No checkpoint was saved yet" in err
    good = {"epochs": 1, "eval.epochs": 1}
    finish(start(dataset, folder, **good))
    assert last_step(folder) == 8


def test_a_finished_run_is_evaluated_and_nothing_else(
    complete: Path, dataset: Path, tmp_path: Path
) -> None:
    """By `eval-only`, all of the test split, whatever the limits of the run."""
    folder = Path(shutil.copytree(complete, tmp_path / "run"))
    state = {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }
    few = words(dataset, folder, **{"eval.final-puzzles": 3})
    out, err = finish(runs.start("train.trm", [*few, "--config.run.eval-only"]))
    assert err == ""
    assert "After 96 steps" in out
    row = json.loads((folder / "evaluations.jsonl").read_text())
    assert row["exact_accuracy"] == metrics(complete)[-1]["exact_accuracy"]
    for path, (content, time_ns) in state.items():
        assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, time_ns)
    new = {p for p in folder.rglob("*") if p.is_file()} - state.keys()
    assert new == {folder / "evaluations.jsonl"}

    deeper = ["--config.run-dir", str(folder), "--config.act.max-steps", "7"]
    finish(runs.start("train.trm", [*deeper, "--config.run.eval-only"]))
    last = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
    assert (row["steps"], last["steps"]) == (3.0, 7.0)


def test_a_longer_run_goes_on_from_a_complete_one(
    complete: Path, dataset: Path, tmp_path: Path
) -> None:
    """At the same path or another, and says that the schedule changes."""
    folder = Path(shutil.copytree(complete, tmp_path / "run"))
    moved = Path(shutil.copytree(dataset, tmp_path / "moved"))
    more = {"data.paths": moved, "epochs": 14, "accumulation": 2}
    out, err = finish(start(dataset, folder, **more))
    assert "Going on from step 96" in out
    assert "another length (epochs: 12.0 -> 14.0)" in out
    assert err == ""
    assert metrics(folder)[: len(metrics(complete))] == metrics(complete)
    assert last_step(folder) == 112
    _, err = finish(start(dataset, folder), 2)
    assert "A run cannot be shorter than it is" in err


def test_devices_that_are_not_there(dataset: Path, tmp_path: Path) -> None:
    argv = words(dataset, tmp_path / "run")
    process = runs.start("train.trm", argv, JAX_PLATFORMS="abacus")
    _, err = finish(process, 2)
    assert err.startswith("error: The devices must be available")
    assert len(err.splitlines()) == 1


def test_nothing_to_evaluate(dataset: Path, tmp_path: Path) -> None:
    mistyped = words(dataset, tmp_path / "no-such-run")
    _, err = finish(runs.start("train.trm", [*mistyped, "--config.run.eval-only"]), 2)
    assert "An evaluation needs a checkpoint" in err
    assert not (tmp_path / "no-such-run").exists()
    assert os.listdir(tmp_path) == []


def test_equally_good_counts_as_better(dataset: Path, tmp_path: Path) -> None:
    """Where no puzzle is ever solved, the newest is the best; the last is there."""
    folder = tmp_path / "run"
    more = {"run.save": "best", "run.keep-last": 1, "optim.lr": "1e-9"}
    finish(start(dataset, folder, **more))
    evaluated = [line for line in metrics(folder) if line["split"] == "eval"]
    assert {line["score"] for line in evaluated} == {0.0}
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert kept == {"72", "96"}, "96 was saved before its score was known"
