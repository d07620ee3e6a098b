"""Runs of two processes on this machine, one device each."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from configs import GeneratedSudoku
from data.build import prepare
from tests import runs
from tests.runs import ROOT, Settings, last_step, metrics, wait_for

pytestmark = pytest.mark.slow

SETTINGS: Settings = {
    "batch-size": 8,
    "model.dim": 16,
    "model.puzzle-dim": 16,
    "model.layers": 1,
    "act.max-steps": 3,
    "epochs": 3,
    "eval.epochs": 1.5,
    "eval.batch-size": 8,
    "run.save-every": 4,
    "run.log-every": 1,
}
CODE = """
from train import cli
cli.begin()
from configs import UserError
from train.presets import TRM_PRESETS
from train import checkpoint, feed, trm
{patch}
with cli.clean_exit():
    raise SystemExit(trm.main(*cli.parse(TRM_PRESETS, "")))
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "sudoku-4x4"
    prepare(GeneratedSudoku(size=4, train=64, test=16), folder)
    return folder


def both(
    settings: Mapping[str, object], patches: tuple[str, str] = ("", "")
) -> list[subprocess.Popen]:
    """Two processes of one run; each may run a line of its own first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for process, patch in enumerate(patches):
        words = runs.words(
            "quickstart",
            {
                **SETTINGS,
                **settings,
                "mesh.coordinator": f"127.0.0.1:{port}",
                "mesh.processes": 2,
                "mesh.process": process,
            },
        )
        command = [sys.executable, "-c", CODE.format(patch=patch), *words]
        started.append(
            subprocess.Popen(
                [*command, "--config.mesh.distributed"],
                cwd=ROOT,
                env=runs.environment(devices=1),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def ends(started: list[subprocess.Popen], status: int) -> list[tuple[str, str]]:
    """What the processes print, which all end with this status."""
    said = [process.communicate(timeout=180) for process in started]
    assert [process.returncode for process in started] == [status] * 2, said
    return said


def test_two_processes_are_one_run(dataset: Path, tmp_path: Path) -> None:
    """As one process with two devices; only the first prints; one goes on with it."""
    where = {"data.paths": dataset, "run-dir": tmp_path / "two"}
    (out, _), (other, _) = ends(both(where), 0)
    assert "on a 2 x 1 mesh" in out
    assert "After 24 steps" in out
    assert "train" not in other
    single = {**SETTINGS, **where, "run-dir": tmp_path / "one"}
    words = runs.words("quickstart", single)
    runs.finish(runs.start("train.trm", words, devices=2))
    for ours, theirs in zip(
        metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True
    ):
        assert ours.keys() == theirs.keys()
        assert ours["lm_loss"] == pytest.approx(theirs["lm_loss"], rel=1e-4)
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "24")
    words = runs.words("quickstart", {**SETTINGS, **where})
    out, _ = runs.finish(runs.start("train.trm", words))
    assert "Going on from step 20" in out


def test_a_checkpoint_that_one_process_cannot_read(
    dataset: Path, tmp_path: Path
) -> None:
    """Both go back to the one before."""
    where = {"data.paths": dataset, "run-dir": tmp_path / "run"}
    ends(both(where), 0)
    patch = (
        "read = checkpoint.read_state\n"
        "def fails(manager, step, abstract):\n"
        "    found = read(manager, step, abstract)\n"
        "    if step == 24: raise OSError('the disk of this host')\n"
        "    return found\n"
        "checkpoint.read_state = fails\n"
    )
    (out, err), _ = ends(both(where, ("", patch)), 0)
    assert "Going on from step 20" in out
    assert "step 24 is damaged (another process cannot read it)" in err
    assert (tmp_path / "run" / "damaged" / "24").is_dir()


def test_an_error_in_one_ends_both(dataset: Path, tmp_path: Path) -> None:
    """Within a minute, with its message and status."""
    where = {"data.paths": dataset, "run-dir": tmp_path / "run"}
    patch = (
        "make = trm.train_input\n"
        "def input_that_fails(*arguments):\n"
        "    batch = make(*arguments)\n"
        "    def one(first):\n"
        "        if first == 9: raise UserError('this disk is gone')\n"
        "        return batch(first)\n"
        "    return one\n"
        "trm.train_input = input_that_fails\n"
    )
    started = both(where, ("", patch))
    started[1].wait(timeout=180)
    since = time.monotonic()
    (_, first), (_, second) = ends(started, 2)
    assert time.monotonic() - since < 60
    assert second.splitlines()[-1] == "error: this disk is gone"
    assert "Process 1 of this run has ended: this disk is gone" in first
    assert "Traceback" not in first + second


@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_is_killed_ends_both(
    victim: int, dataset: Path, tmp_path: Path
) -> None:
    """Within a minute, with a message: JAX's, or that of a collective that failed."""
    folder = tmp_path / "run"
    started = both({"data.paths": dataset, "run-dir": folder, "epochs": 3000})
    wait_for(lambda: last_step(folder) >= 6, started[0])
    started[victim].kill()
    since = time.monotonic()
    _, err = started[1 - victim].communicate(timeout=120)
    assert time.monotonic() - since < 60
    assert started[1 - victim].returncode != 0
    assert "another task died" in err or "of this run has ended" in err
    started[victim].communicate()


def test_the_others_wait_for_a_dataset(tmp_path: Path) -> None:
    """Longer than a collective would."""
    where = {
        "data.paths": tmp_path / "data",
        "data.build:generated-sudoku": "",
        "run-dir": tmp_path / "run",
    }
    del where["data.build:generated-sudoku"]
    patch = (
        "import time\n"
        "make = feed.prepare\n"
        "def slowly(*arguments, **options):\n"
        "    time.sleep(40)\n"
        "    make(*arguments, **options)\n"
        "feed.prepare = slowly\n"
    )
    (out, _), _ = ends(both(where | {"batch-size": 64}, (patch, "")), 0)
    assert "making it" in out
