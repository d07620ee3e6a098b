"""Runs with early signals, full disks, broken output."""

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

from tests import runs
from tests.runs import (
    ROOT,
    finish,
    last_step,
    launch,
    metrics,
    start_trm,
    trm_words,
    wait_for,
)

pytestmark = pytest.mark.slow


# -- signals ---------------------------------------------------------------------------


PATCHED = """
import sys, time
from train import cli, trm
from train.presets import TRM_PRESETS
{patch}
cli.run(lambda: trm.main(*cli.parse(TRM_PRESETS, "")))
"""


def start_patched(patch: str, words: list[str]) -> subprocess.Popen[str]:
    """Start a run after the lines of `patch`."""
    return launch(["-c", PATCHED.format(patch=patch), *words])


READY = """
parse = cli.parse
def ready(*arguments):
    print("ready", flush=True)
    return parse(*arguments)
cli.parse = ready
"""


@pytest.mark.parametrize(
    ("number", "after"),
    [(signal.SIGINT, 0.0), (signal.SIGTERM, 1.0), (signal.SIGHUP, 2.0)],
)
def test_a_signal_before_the_first_step_ends_it_at_once(
    dataset: Path, tmp_path: Path, number: signal.Signals, after: float
) -> None:
    """While it reads or compiles."""
    process = start_patched(READY, trm_words(dataset, tmp_path / "run"))
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
    process = start_trm(dataset, tmp_path / "run", **{"run.save-every": 1000})
    wait_for(lambda: last_step(tmp_path / "run") >= 5, process)
    process.send_signal(signal.SIGHUP)
    finish(process, 128 + signal.SIGHUP)
    assert any((tmp_path / "run" / "checkpoints").iterdir())


SLOW_EVALUATION = """
from dataclasses import replace
splits = trm.TRMExperiment.eval_splits
def slow_splits(self, when):
    split, = splits(self, when)
    def batch(index):
        if index: time.sleep(5)
        return split.batch(index % 2)
    return [replace(split, batches=8, batch=batch)]
trm.TRMExperiment.eval_splits = slow_splits
"""


def test_an_interrupted_evaluation_is_repeated(
    complete: Path, dataset: Path, tmp_path: Path
) -> None:
    """The state is saved before it, and the same command evaluates it first."""
    folder = tmp_path / "run"
    process = start_patched(SLOW_EVALUATION, trm_words(dataset, folder))
    wait_for(lambda: (folder / "checkpoints" / "24").is_dir(), process)
    process.send_signal(signal.SIGTERM)
    since = time.monotonic()
    out, _ = finish(process, 143)
    assert time.monotonic() - since < 25, "less than seven batches take"
    assert "step 24" in out
    finish(start_trm(dataset, folder))
    assert metrics(folder) == metrics(complete)


# -- disks -----------------------------------------------------------------------------

LITTLE_ROOM = """
import resource
from train.runs.checkpoint import Checkpoints
save = Checkpoints.save
def save_with_little_room(self, state):
    if int(state.step) >= 8:
        self.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
    save(self, state)
Checkpoints.save = save_with_little_room
"""


def run_with_room(room: int, dataset: Path, folder: Path) -> str:
    """Fill the disk after step 4; return the message of the run that stops."""
    patch = LITTLE_ROOM.format(room=room)
    _, err = finish(start_patched(patch, trm_words(dataset, folder)), 1)
    # Orbax may print the errors of its own threads before.
    message = re.search(r"^error: .*", err, re.MULTILINE | re.DOTALL)
    assert message is not None, err
    assert "Traceback" not in message[0]
    return message[0]


def test_a_disk_that_fills_up(complete: Path, dataset: Path, tmp_path: Path) -> None:
    """The run stops at the next dispatch; with room again it resumes."""
    folder = tmp_path / "run"
    err = run_with_room(10000, dataset, folder)  # enough for metrics, not for a state
    assert "step 8" in err
    assert "step 4" in err
    finish(start_trm(dataset, folder))
    assert metrics(folder) == metrics(complete)


def test_no_room_for_metrics(dataset: Path, tmp_path: Path) -> None:
    run_with_room(0, dataset, tmp_path / "run")


# -- output ----------------------------------------------------------------------------


def leave_early(command: list[str]) -> str:
    return f"{' '.join(command)} | head -1"


def close(command: list[str]) -> str:
    return f"{' '.join(command)} >&-"


def fill(command: list[str]) -> str:
    return f"{' '.join(command)} > /dev/full"


@pytest.mark.parametrize("spoil", [leave_early, close, fill])
def test_broken_output_does_not_end_a_run(
    complete: Path, dataset: Path, tmp_path: Path, spoil: Callable[[list[str]], str]
) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "train.trm", *trm_words(dataset, folder)]
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
    process = start_trm(dataset, folder)
    wait_for(lambda: last_step(folder) >= 5, process)
    (folder / "metrics.jsonl").unlink()
    _, err = finish(process)
    assert "metrics.jsonl" in err
    assert metrics(folder) == metrics(complete)


# -- weights ---------------------------------------------------------------------------


def test_a_start_that_diverged_can_be_repeated(dataset: Path, tmp_path: Path) -> None:
    """Nothing was saved, so the corrected command may use the directory."""
    bad = {"optim.name": "adamw", "optim.lr": "1e38", "optim.weight-decay": 0.0}
    folder = tmp_path / "run"
    finish(start_trm(dataset, folder, **bad), 1)
    good = {"epochs": 1, "eval.epochs": 1}
    finish(start_trm(dataset, folder, **good))
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
    few = trm_words(dataset, folder, **{"eval.final-puzzles": 3})
    out, err = finish(runs.start("train.trm", [*few, "--config.run.eval-only"]))
    assert err == ""
    assert "96 steps" in out
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


def test_a_longer_run_resumes_a_complete_one(
    complete: Path, dataset: Path, tmp_path: Path
) -> None:
    """At the same path or another, with a note on the changed schedule."""
    folder = Path(shutil.copytree(complete, tmp_path / "run"))
    moved = Path(shutil.copytree(dataset, tmp_path / "moved"))
    more = {"data.paths": moved, "epochs": 14, "accumulation": 2}
    out, err = finish(start_trm(dataset, folder, **more))
    assert "step 96" in out
    assert "epochs: 12.0 -> 14.0" in out
    assert err == ""
    assert metrics(folder)[: len(metrics(complete))] == metrics(complete)
    assert last_step(folder) == 112
    _, err = finish(start_trm(dataset, folder), 2)
    assert "112 steps" in err


def test_missing_devices(dataset: Path, tmp_path: Path) -> None:
    argv = trm_words(dataset, tmp_path / "run")
    process = runs.start("train.trm", argv, JAX_PLATFORMS="abacus")
    _, err = finish(process, 2)
    assert err.startswith("error: ")
    assert "abacus" in err
    assert len(err.splitlines()) == 1


def test_nothing_to_evaluate(dataset: Path, tmp_path: Path) -> None:
    mistyped = trm_words(dataset, tmp_path / "no-such-run")
    _, err = finish(runs.start("train.trm", [*mistyped, "--config.run.eval-only"]), 2)
    assert "no-such-run" in err
    assert not (tmp_path / "no-such-run").exists()
    assert os.listdir(tmp_path) == []


def test_equally_good_counts_as_better(dataset: Path, tmp_path: Path) -> None:
    """Where no puzzle is ever solved, the newest is the best; the last is there."""
    folder = tmp_path / "run"
    more = {"run.save": "best", "run.keep-last": 1, "optim.lr": "1e-9"}
    finish(start_trm(dataset, folder, **more))
    evaluated = [line for line in metrics(folder) if line["split"] == "eval"]
    assert {line["score"] for line in evaluated} == {0.0}
    saved = {path.name for path in (folder / "checkpoints").iterdir()}
    assert saved == {"72", "96"}, "96 was saved before its score was known"
