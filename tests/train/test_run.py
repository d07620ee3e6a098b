"""Runs of `train.trm` from the command line."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import MeshConfig
from tests import runs
from tests.runs import ROOT, finish, last_step, metrics, start_trm, trm_words, wait_for
from train import cli
from train.presets import TRM_PRESETS
from train.running import resume_command
from train.trm import main

Settings = runs.Settings


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(),
        MeshConfig(distributed=True),
        MeshConfig(distributed=True, coordinator="a:1", processes=2, process=1),
    ],
)
def test_the_command_that_resumes(mesh: MeshConfig) -> None:
    """It starts the same processes."""
    line = resume_command("trm", Path("runs/a b"), mesh)
    words = shlex.split(line.split("train.trm ")[1].replace("NUMBER", "1"))
    _, config = cli.parse(TRM_PRESETS, "", words)
    assert (config.run_dir, config.mesh) == ("runs/a b", mesh)


def test_a_run_writes_its_files_and_prints_progress(complete: Path) -> None:
    config = json.loads((complete / "config.json").read_text())
    assert config["model"]["dim"] == 16
    recorded = config["recorded"]
    assert recorded["slices"] == [1]
    assert (recorded["kind"], recorded["preset"]) == ("trm", "quickstart")
    assert recorded["code"]["libraries"]["jax"] == jax.__version__
    lines = metrics(complete)
    assert [x["step"] for x in lines if x["split"] == "train"] == list(range(1, 97))
    assert [x["step"] for x in lines if x["split"] == "eval"] == [24, 48, 72, 96]
    keys = {"lm_loss", "q_halt_loss", "accuracy", "exact_accuracy", "steps"}
    assert all(keys <= line.keys() for line in lines)
    assert (complete / "checkpoints" / "96").is_dir()
    rows = map(json.loads, (complete / "metrics.jsonl").read_text().splitlines())
    spent = {name for row in rows if row["split"] == "time" for name in row}
    assert {"compile_seconds", "save_seconds", "evaluate_seconds"} <= spent

    out = (complete / "out").read_text()
    *table, sums = (complete / "parameters.txt").read_text().splitlines()
    assert f"{sums}: {complete}/parameters.txt" in out
    parts = [int(line.split()[-2].replace(",", "")) for line in table]
    assert sums.startswith(f"{sum(parts) // 4:,} parameters, ")
    assert re.search(r"50/96 .* lm_loss", out)
    assert "exact_accuracy" in out
    assert "----+-----" in out, "a board"
    assert "\r" not in out, "plain lines without a terminal"
    assert (complete / "err").read_text() == ""


@pytest.mark.slow
def test_a_finished_run_is_not_changed(complete: Path, dataset: Path) -> None:
    before = metrics(complete)
    out, err = finish(start_trm(dataset, complete))
    assert "step 96" in out
    assert err == ""
    assert metrics(complete) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_prints_a_command_that_resumes(
    number: signal.Signals, complete: Path, dataset: Path, tmp_path: Path
) -> None:
    process = start_trm(dataset, tmp_path / "run", **{"run.save-every": 1000})
    wait_for(lambda: last_step(tmp_path / "run") >= 9, process)
    process.send_signal(number)
    out, err = finish(process, 128 + number)
    stopped = last_step(tmp_path / "run")
    assert err == ""
    assert (tmp_path / "run" / "checkpoints" / str(stopped)).is_dir()

    (resume,) = re.findall(r"python -m train\.trm (.*)", out)
    out, _ = finish(runs.start("train.trm", resume.split()))
    assert f"step {stopped}" in out
    assert metrics(tmp_path / "run") == metrics(complete)


@pytest.mark.slow
def test_killed_at_any_moment(complete: Path, dataset: Path, tmp_path: Path) -> None:
    """Five times, once in the middle of a save; the rest is the same bit for bit."""
    folder, rng = tmp_path / "run", np.random.default_rng()
    saves = folder / "checkpoints"
    for number in range(5):
        process, reached = start_trm(dataset, folder), last_step(folder)
        target = reached + int(rng.integers(2, 24))
        if number == 2:
            wait_for(lambda: any(saves.glob("*.orbax-checkpoint-tmp")), process)
        else:
            wait_for(lambda target=target: last_step(folder) >= target, process)
            time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        print(f"killed at {last_step(folder)}: {sorted(os.listdir(saves))}")
    finish(start_trm(dataset, folder))
    assert metrics(folder) == metrics(complete)


@pytest.mark.slow
def test_damage_costs_the_newest_checkpoint_only(
    complete: Path, dataset: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(complete, tmp_path / "run"))
    (folder / "checkpoints" / "96" / "model" / "manifest.ocdbt").unlink()
    out, err = finish(start_trm(dataset, folder))
    assert "step 92" in out
    assert "step 96" in err
    assert metrics(folder) == metrics(complete)


@pytest.mark.slow
def test_another_mesh_resumes(complete: Path, dataset: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(complete, tmp_path / "run"))
    shutil.rmtree(folder / "checkpoints" / "96")
    mesh = {"mesh.data": 4, "mesh.model": 2}
    out, _ = finish(start_trm(dataset, folder, devices=8, **mesh))
    assert "4 x 2 mesh" in out
    assert "step 92" in out
    for line, expected in zip(metrics(folder), metrics(complete), strict=True):
        assert line["lm_loss"] == pytest.approx(expected["lm_loss"], rel=0.02)
    assert metrics(folder)[:90] == metrics(complete)[:90]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(dataset: Path, tmp_path: Path) -> None:
    more = {"optim.name": "adamw", "optim.lr": "1e38", "optim.warmup": 1000}
    more |= {"optim.weight-decay": 0.0, "run.save-every": 1}
    _, err = finish(start_trm(dataset, tmp_path / "run", **more), 1)
    assert err.startswith("error: ")
    assert "Traceback" not in err
    saved = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert (f"step {max(saved)}" if saved else "No checkpoint") in err


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(dataset: Path, tmp_path: Path) -> None:
    """For example while the first one waits for an evaluation."""
    code = (
        "import os, signal, time\n"
        "from train.devices import Interrupt\n"
        "stop = Interrupt()\n"
        "stop.listen()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "assert stop.wanted() and stop.status == 130\n"
        "time.sleep(0.6)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "time.sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, timeout=50, capture_output=True
    )
    assert done.returncode == 130
    assert done.stderr == b""


# -- bad input -------------------------------------------------------------------------


Failing = Callable[[list[str]], str]


@pytest.fixture
def failing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Failing:
    """Runs a command line that exits with status 2; returns its message."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(words: list[str]) -> str:
        with pytest.raises(SystemExit) as caught, cli.clean_exit():
            main(*cli.parse(TRM_PRESETS, "", words))
        assert caught.value.code == 2
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return " ".join(message.replace("│", " ").split())

    return run


def spoil_missing(train: Path) -> None:
    (train / "all__labels.npy").unlink()


def spoil_shape(train: Path) -> None:
    np.save(train / "all__inputs.npy", np.ones((64, 15), np.uint8))


def spoil_label(train: Path) -> None:
    labels = np.load(train / "all__labels.npy")
    labels[5, 7] = 99
    np.save(train / "all__labels.npy", labels)


def spoil_metadata(train: Path) -> None:
    (train / "dataset.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "value"),
    [
        (spoil_missing, "all__labels.npy"),
        (spoil_shape, "(64, 15)"),
        (spoil_label, "99 at (5, 7)"),
        (spoil_metadata, "dataset.json"),
    ],
)
def test_a_bad_dataset(
    spoil: Callable[[Path], None],
    value: str,
    dataset: Path,
    tmp_path: Path,
    failing: Failing,
) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "data"))
    spoil(copy / "train")
    assert value in failing(trm_words(copy, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "value"),
    [
        ({"batch-size": 20, "mesh.data": 8}, "8 devices"),
        ({"mesh.data": 16}, "16 x 1"),
        ({"model.dim": 20, "model.heads": 8, "model.mixer": "attention"}, "dim=20"),
        ({"batch-size": "many"}, "batch-size"),
        ({"batch-size": 2**31 - 1}, "`batch_size`"),
        ({"batch-size": 1000, "epochs": 1}, "batch_size=1000"),
        ({"epochs": "1e30"}, "2147483647 steps"),
        ({"act.max-steps": 2**31 - 1}, "`max_steps`"),
        ({"model.expansion": "1e-9"}, "`expansion`"),
        ({"model.expansion": "1e9"}, "`expansion`"),
        ({"optim.warmup": 2**40}, "`warmup`"),
        ({"seed": 2**63}, "`seed`"),
        ({"data.build": None, "data.paths": "no-such-folder"}, "no-such-folder"),
    ],
)
def test_bad_settings(
    more: Settings, value: str, dataset: Path, tmp_path: Path, failing: Failing
) -> None:
    assert value in failing(trm_words(dataset, tmp_path / "run", **more))


def bad_file(folder: Path) -> Path:
    folder.write_text("")
    return folder / "run"


def bad_proc(folder: Path) -> Path:
    return Path("/proc/run")


def bad_json(folder: Path) -> Path:
    (folder / "checkpoints" / "4").mkdir(parents=True)
    (folder / "config.json").write_text('{"batch_size": 8, "epo')
    return folder


def bad_bytes(folder: Path) -> Path:
    (folder / "checkpoints" / "4").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    return folder


def bad_checkpoints(folder: Path) -> Path:
    folder.mkdir()
    (folder / "checkpoints").write_text("")
    return folder


@pytest.mark.parametrize(
    ("spoil", "value"),
    [
        (bad_file, "bad/run"),
        (bad_proc, "/proc/run"),
        (bad_json, "config.json"),
        (bad_bytes, "config.json"),
        (bad_checkpoints, "checkpoints"),
    ],
)
def test_a_bad_run_directory(
    spoil: Callable[[Path], Path],
    value: str,
    dataset: Path,
    tmp_path: Path,
    failing: Failing,
) -> None:
    folder = spoil(tmp_path / "bad")
    assert value in failing(trm_words(dataset, folder, **{"mesh.data": 1}))


def test_a_run_of_another_configuration(
    complete: Path, dataset: Path, failing: Failing
) -> None:
    words = trm_words(dataset, complete, seed=3, **{"mesh.data": 1})
    assert "seed: 0 -> 3" in failing(words)


def test_checkpoints_contain_their_configuration(
    complete: Path, dataset: Path, tmp_path: Path, failing: Failing
) -> None:
    shutil.copytree(complete / "checkpoints", tmp_path / "checkpoints")
    more = {"model.dim": 32, "mesh.data": 1}
    assert "model.dim: 16 -> 32" in failing(trm_words(dataset, tmp_path, **more))


@pytest.mark.slow
def test_missing_data_and_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: Failing
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {**runs.TINY, "epochs": 12, "run-dir": tmp_path / "run"}
    message = failing(runs.words("sudoku", settings))
    path = TRM_PRESETS["sudoku"][1].data.paths[0]
    assert f"python -m data.prepare sudoku --out {path}" in message
