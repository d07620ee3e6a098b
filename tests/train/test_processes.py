"""Runs of two and four processes on this machine, one device each."""

import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from data.puzzles.dataset import PuzzleDataset
from data.text.dataset import TokenDataset
from tests import runs
from tests.runs import Settings, last_step, metrics, wait_for
from train import cli
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.runs.stored import saved_steps

pytestmark = pytest.mark.slow

SETTINGS: Settings = {
    **runs.TINY,
    "epochs": 3,
    "eval.epochs": 1.5,
    "run.save-every": 4,
}
OF_GPT: Settings = {
    **runs.TINY_GPT,
    "microbatch-size": 2,
    "max-iters": 24,
    "model.n-layer": 1,
    "eval.interval": 12,
}
SETTINGS_OF = {"trm": SETTINGS, "gpt": OF_GPT}
ORDER = {2: 0.0, 4: 1e-5}
"""Relative difference of a metric to one process with the same number of devices, which
adds in another order than gloo. The sum of two numbers does not depend on the order."""

GLOO = re.compile(r"\[Gloo\] Rank .*|\s+")
"""Output of gloo in all processes."""

Where = dict[str, Settings]
Finished = Callable[[str, int], Path]
PRESET = {"trm": "quickstart", "gpt": "shakespeare-char-cpu"}
CODE = """
from train import cli
from configs import UserError
from train.presets import {presets}
from train import feed, {model}
from train.runs import checkpoint
{patch}
cli.run(lambda: {model}.main(*cli.parse({presets}, "")))
"""
RECORD = """
import numpy as np
from train.watch.terminal import Terminal
read, progress = {model}.{kind}.train_batch, Terminal.progress
def recorded_batch(self, number):
    batch = read(self, number)
    np.save(f"{name}-{{number}}.npy", batch.inputs)
    return batch
def recorded_progress(self, done):
    progress(self, done)
    open("{name}", "w").write(str(done))
{model}.{kind}.train_batch = recorded_batch
Terminal.progress = recorded_progress
"""
"""Saves a process's inputs, and its last step, in files with its number."""

SIGNAL = """
import os, signal
from train.watch.terminal import Terminal
before = Terminal.progress
def progress_and_signal(self, done):
    before(self, done)
    if done == {step}:
        os.kill(os.getpid(), signal.SIGTERM)
Terminal.progress = progress_and_signal
"""


@pytest.fixture(scope="module")
def puzzles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "named-4x4"
    runs.named_sudoku(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "data"
    runs.short_text(folder)
    return folder


def start(
    settings: Mapping[str, object],
    model: str = "trm",
    patch: str = "",
    *,
    devices: int = 1,
    flags: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """Start training after the lines of `patch`.

    LLVM does not optimize the programs, which would take longer than running them.
    """
    words = runs.words(PRESET[model], {**SETTINGS_OF[model], **settings})
    presets = f"{model.upper()}_PRESETS"
    code = CODE.format(model=model, presets=presets, patch=patch)
    flag = "--xla_backend_optimization_level=0"
    xla = f"{runs.environment(devices)['XLA_FLAGS']} {flag}"
    return runs.launch(["-c", code, *words, *flags], devices, XLA_FLAGS=xla)


def together(
    settings: Mapping[str, object],
    patches: Sequence[str] = ("", ""),
    model: str = "trm",
) -> list[subprocess.Popen[str]]:
    """The processes of one run, one for each patch."""
    flags = runs.mesh_words(len(patches))
    return [
        start(settings, model, patch, flags=words)
        for patch, words in zip(patches, flags, strict=True)
    ]


def ends(started: list[subprocess.Popen[str]], status: int) -> list[tuple[str, str]]:
    """Wait for processes that all end with `status`; return their output."""
    outputs = [process.communicate(timeout=600) for process in started]
    assert [p.returncode for p in started] == [status] * len(started), outputs
    return outputs


def records(model: str, folder: Path, count: int) -> list[str]:
    """Return the patch of each process that records its work in a folder."""
    kind = f"{model.upper()}Experiment"
    return [
        RECORD.format(model=model, kind=kind, name=folder / str(i))
        for i in range(count)
    ]


def same_lines(actual: list[dict], expected: list[dict], rel: float = 0.0) -> None:
    """Compare lines of metrics, floats up to a relative difference."""
    for one, other in zip(actual, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            expected_value = other[key]
            if isinstance(expected_value, float) and rel:
                expected_value = pytest.approx(expected_value, rel=rel)
            assert value == expected_value, (one["step"], key)


@pytest.fixture(scope="module")
def where(puzzles: Path, text: Path) -> Where:
    """The data of each model."""
    return {"trm": {"data.paths": puzzles}, "gpt": {"data.path": text}}


@pytest.fixture(scope="module")
def finished(where: Where, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Folders of uninterrupted runs, with each process's output and inputs."""

    @cache
    def finish(model: str, count: int) -> Path:
        folder = tmp_path_factory.mktemp(model)
        settings = {**where[model], "run-dir": folder / "run"}
        outputs = ends(together(settings, records(model, folder, count), model), 0)
        for process, (out, err) in enumerate(outputs):
            assert err == ""
            (folder / f"{process}.out").write_text(out)
        return folder

    return finish


@pytest.mark.parametrize(("model", "count"), [("trm", 2), ("trm", 4), ("gpt", 4)])
def test_several_processes_are_one_run(
    model: str, count: int, finished: Finished, where: Where, tmp_path: Path
) -> None:
    """They equal one process with `count` devices; only the first prints."""
    folder = finished(model, count)
    printed = [(folder / f"{process}.out").read_text() for process in range(count)]
    assert f"{count} x 1 mesh" in printed[0]
    assert not any(GLOO.sub("", text) for text in printed[1:])
    single = {**where[model], "run-dir": tmp_path / "run"}
    runs.finish(start(single, model, devices=count))
    lines = metrics(folder / "run")
    same_lines(lines, metrics(tmp_path / "run"), ORDER[count])
    assert [line["step"] for line in lines if line["split"] == "eval"] == [12, 24]


@pytest.mark.parametrize("model", ["trm", "gpt"])
def test_each_process_reads_its_own_rows(
    model: str, finished: Finished, where: Where
) -> None:
    """Two of the eight; together they are the batch."""
    folder = finished(model, 4)
    if model == "trm":
        _, config = TRM_PRESETS[PRESET["trm"]]
        data = PuzzleDataset(
            [str(where["trm"]["data.paths"])],
            "train",
            batch_size=8,
            seed=config.seed,
            epochs_per_block=config.data.block,
        )
    else:
        _, config = GPT_PRESETS[PRESET["gpt"]]
        path = str(where["gpt"]["data.path"])
        data = TokenDataset(path, "train", block_size=8, batch_size=8, seed=config.seed)
    for step in range(24):
        parts = [np.load(folder / f"{process}-{step}.npy") for process in range(4)]
        assert [len(part) for part in parts] == [2] * 4
        assert (np.concatenate(parts) == data.batch(step).inputs).all()


@pytest.mark.parametrize(("model", "count"), [("trm", 2), ("trm", 4), ("gpt", 2)])
def test_a_signal_to_one_stops_all_and_others_resume(
    model: str, count: int, finished: Finished, where: Where, tmp_path: Path
) -> None:
    """Several processes, then one with `count` devices, then several again."""
    folder = tmp_path / "run"
    settings = {**where[model], "run-dir": folder, "run.save-every": 1000}
    patches = records(model, tmp_path, count)
    patches[-1] += SIGNAL.format(step=3)
    out, _ = ends(together(settings, patches, model), 143)[0]
    reached = {int((tmp_path / str(i)).read_text()) for i in range(count)}
    first = last_step(folder)
    assert reached == {first}
    assert f"step {first}" in out
    assert saved_steps(folder / "checkpoints") == [first]
    assert 3 <= first < 20, "it must stop before the end"

    second = SIGNAL.format(step=first + 2)
    single = start(settings, model, second, devices=count)
    out, _ = runs.finish(single, 143)
    assert f"step {first}" in out
    out, _ = ends(together(settings, [""] * count, model), 0)[0]
    assert f"step {first + 2}" in out

    lines, expected = metrics(folder), metrics(finished(model, count) / "run")
    same_lines(lines[:first], expected[:first])
    same_lines(lines, expected, ORDER[count])


def test_a_checkpoint_that_one_process_cannot_read(
    dataset: Path, tmp_path: Path
) -> None:
    """Both go back to the one before."""
    where = {"data.paths": dataset, "run-dir": tmp_path / "run"}
    ends(together(where), 0)
    patch = (
        "read = checkpoint.read_state\n"
        "def fails(manager, step, abstract):\n"
        "    state = read(manager, step, abstract)\n"
        "    if step == 24: raise OSError('the disk of this host')\n"
        "    return state\n"
        "checkpoint.read_state = fails\n"
    )
    (out, err), _ = ends(together(where, ("", patch)), 0)
    assert "step 20" in out
    assert "step 24" in err
    assert (tmp_path / "run" / "damaged" / "24").is_dir()


def test_an_error_in_one_ends_both(dataset: Path, tmp_path: Path) -> None:
    """Within a minute, with its message and status."""
    where = {"data.paths": dataset, "run-dir": tmp_path / "run"}
    patch = (
        "read = trm.TRMExperiment.train_batch\n"
        "def fails(self, number):\n"
        "    if number == 9: raise UserError('this disk is gone')\n"
        "    return read(self, number)\n"
        "trm.TRMExperiment.train_batch = fails\n"
    )
    started = together(where, ("", patch))
    started[1].wait(timeout=600)
    since = time.monotonic()
    (_, first), (_, second) = ends(started, 2)
    assert time.monotonic() - since < 60
    assert second.splitlines()[-1] == "error: this disk is gone"
    assert "this disk is gone" in first
    assert "Traceback" not in first + second


@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_is_killed_ends_both(
    victim: int, dataset: Path, tmp_path: Path
) -> None:
    """Within a minute, with a status that tells to start again.

    If the first one is killed, JAX may abort the others before they can do anything.
    """
    folder = tmp_path / "run"
    where = {"data.paths": dataset, "run-dir": folder, "epochs": 3000}
    started = together(where | {"eval.epochs": 3000, "run.save-every": 5})
    wait_for(lambda: last_step(folder) >= 6, started[0])
    started[victim].kill()
    since = time.monotonic()
    _, err = started[1 - victim].communicate(timeout=120)
    assert time.monotonic() - since < 60
    aborted = started[1 - victim].returncode == -signal.SIGABRT
    assert started[1 - victim].returncode == cli.PEER_LOST or (victim == 0 and aborted)
    assert "another task died" in err or "Lost the connection" in err
    started[victim].communicate()


def test_a_signal_while_compiling_ends_it_at_once(
    dataset: Path, tmp_path: Path
) -> None:
    patch = (
        "import os, signal, time\n"
        "from train import running\n"
        "def stop(*_):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(600)\n"
        "running.compiled_step = stop\n"
    )
    where = {"data.paths": dataset, "run-dir": tmp_path / "run"}
    first, second = together(where, ("", patch))
    assert second.wait(timeout=60) == -signal.SIGTERM
    first.communicate(timeout=120)
    assert first.returncode in (cli.PEER_LOST, -signal.SIGABRT)
    second.communicate()


BUILD: Settings = {"data.build.size": 4, "data.build.train": 64, "data.build.test": 16}


def test_first_weights_of_a_run(finished: Finished, tmp_path: Path) -> None:
    """They must fit data that are built first, for all processes."""
    settings: Settings = {"data.paths": tmp_path / "data", **BUILD, "epochs": 1}
    settings |= {"init-from": finished("trm", 2) / "run", "run-dir": tmp_path / "run"}
    (_, err), (_, second) = ends(together(settings), 0)
    assert err + second == ""
    assert last_step(tmp_path / "run") == 8


def test_the_others_wait_for_a_dataset(tmp_path: Path) -> None:
    """Longer than a collective operation waits."""
    where = {"data.paths": tmp_path / "data", "run-dir": tmp_path / "run", **BUILD}
    patch = (
        "import time\n"
        "make = feed.prepare\n"
        "def slowly(*arguments, **options):\n"
        "    time.sleep(40)\n"
        "    make(*arguments, **options)\n"
        "feed.prepare = slowly\n"
    )
    ends(together(where, (patch, "")), 0)
