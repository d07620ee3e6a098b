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

import jax
import numpy as np
import pytest

from configs import GeneratedSudoku
from data.build import prepare
from tests import runs
from tests.runs import ROOT, Settings, finish, last_step, metrics, wait_for
from train import cli
from train.presets import TRM_PRESETS
from train.trm import main

SETTINGS = {
    "batch-size": 8,
    "model.dim": 16,
    "model.puzzle-dim": 16,
    "model.layers": 1,
    "act.max-steps": 3,
    "optim.warmup": 20,
    "eval.epochs": 3,
    "eval.batch-size": 8,
    "run.save-every": 4,
    "run.log-every": 1,
}


def words(settings: Settings) -> list[str]:
    return runs.words("quickstart", {**SETTINGS, **settings})


def start(settings: Settings, devices: int = 1) -> subprocess.Popen[str]:
    return runs.start("train.trm", words(settings), devices)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "sudoku-4x4"
    prepare(GeneratedSudoku(size=4, train=64, test=16), folder)
    return folder


def settings_of(dataset: Path, folder: Path, **more: object) -> Settings:
    return {"data.paths": dataset, "epochs": 12, "run-dir": folder, **more}


@pytest.fixture(scope="session")
def complete(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an uninterrupted run; what it printed is in `out`, `err`."""
    folder = tmp_path_factory.mktemp("complete") / "run"
    out, err = finish(start(settings_of(dataset, folder)))
    (folder / "out").write_text(out)
    (folder / "err").write_text(err)
    return folder


def test_what_a_run_leaves_and_says(complete: Path) -> None:
    config = json.loads((complete / "config.json").read_text())
    assert config["model"]["dim"] == 16
    recorded = config["recorded"]
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
    assert re.search(r"train 50/96 \(\d+:\d\d left\)  lm_loss", out)
    assert "After 96 steps" in out
    assert "exact_accuracy" in out
    assert "----+-----" in out, "a board"
    assert "\r" not in out, "plain lines where there is no terminal"
    assert (complete / "err").read_text() == "", "no noise"


@pytest.mark.slow
def test_a_finished_run_says_so_again(complete: Path, dataset: Path) -> None:
    before = metrics(complete)
    out, err = finish(start(settings_of(dataset, complete)))
    assert "Going on from step 96" in out
    assert "After 96 steps" in out
    assert err == ""
    assert metrics(complete) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_what_it_prints_goes_on(
    number: signal.Signals, complete: Path, dataset: Path, tmp_path: Path
) -> None:
    settings = settings_of(dataset, tmp_path / "run", **{"run.save-every": 1000})
    process = start(settings)
    wait_for(lambda: last_step(tmp_path / "run") >= 9, process)
    process.send_signal(number)
    out, err = finish(process, 128 + number)
    stopped = last_step(tmp_path / "run")
    assert f"Stopped at step {stopped}, which is saved" in out
    assert err == ""
    assert (tmp_path / "run" / "checkpoints" / str(stopped)).is_dir()

    (go_on,) = re.findall(r"Go on with: python -m train\.trm (.*)", out)
    out, _ = finish(runs.start("train.trm", go_on.split()))
    assert f"Going on from step {stopped}" in out
    assert metrics(tmp_path / "run") == metrics(complete)


@pytest.mark.slow
def test_killed_at_any_moment(complete: Path, dataset: Path, tmp_path: Path) -> None:
    """Five times, once in the middle of a save; the rest is the same bit for bit."""
    folder, rng = tmp_path / "run", np.random.default_rng()
    saves = folder / "checkpoints"
    for number in range(5):
        process, reached = start(settings_of(dataset, folder)), last_step(folder)
        enough = reached + int(rng.integers(2, 24))
        if number == 2:
            wait_for(lambda: any(saves.glob("*.orbax-checkpoint-tmp")), process)
        else:
            wait_for(lambda wanted=enough: last_step(folder) >= wanted, process)
            time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        print(f"killed at {last_step(folder)}: {sorted(os.listdir(saves))}")
    finish(start(settings_of(dataset, folder)))
    assert metrics(folder) == metrics(complete)


@pytest.mark.slow
def test_damage_costs_the_newest_checkpoint_only(
    complete: Path, dataset: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(complete, tmp_path / "run"))
    (folder / "checkpoints" / "96" / "model" / "manifest.ocdbt").unlink()
    out, err = finish(start(settings_of(dataset, folder)))
    assert "Going on from step 92" in out
    assert "warning: The checkpoint at step 96 is damaged" in err
    assert metrics(folder) == metrics(complete)


@pytest.mark.slow
def test_another_mesh_goes_on(complete: Path, dataset: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(complete, tmp_path / "run"))
    shutil.rmtree(folder / "checkpoints" / "96")
    mesh = {"mesh.data": 4, "mesh.model": 2}
    out, _ = finish(start(settings_of(dataset, folder, **mesh), devices=8))
    assert "on a 4 x 2 mesh" in out
    assert "Going on from step 92" in out
    for line, expected in zip(metrics(folder), metrics(complete), strict=True):
        assert line["lm_loss"] == pytest.approx(expected["lm_loss"], rel=0.02)
    assert metrics(folder)[:90] == metrics(complete)[:90]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(dataset: Path, tmp_path: Path) -> None:
    more = {"optim.name": "adamw", "optim.lr": "1e38", "optim.warmup": 1000}
    more |= {"optim.weight-decay": 0.0, "run.save-every": 1}
    _, err = finish(start(settings_of(dataset, tmp_path / "run", **more)), 1)
    assert err.startswith("error: Every number must be finite")
    assert "--config.optim.clip" in err
    assert "Traceback" not in err
    kept = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()]
    said = f"checkpoint of step {max(kept)} was kept" if kept else "No checkpoint"
    assert said in err


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(dataset: Path, tmp_path: Path) -> None:
    """While the first one waits for an evaluation, say; here the process stands."""
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


def fails(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """The message of a run that must not start, and nothing but a message."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", ["train.trm", *words(settings)])
    with pytest.raises(SystemExit) as caught, cli.clean_exit():
        main(*cli.parse(TRM_PRESETS, ""))
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return " ".join(said.replace("│", " ").split())


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
    ("spoil", "said"),
    [
        (spoil_missing, "all__labels.npy is missing"),
        (spoil_shape, "must have the shape (examples, 16): got (64, 15)"),
        (spoil_label, "must have values from 0 to 5: got 99 at (5, 7)"),
        (spoil_metadata, "dataset.json"),
    ],
)
def test_a_bad_dataset(
    spoil: Callable[[Path], None],
    said: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "data"))
    spoil(copy / "train")
    settings = settings_of(copy, tmp_path / "run")
    assert said in fails(settings, monkeypatch, capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"batch-size": 20, "mesh.data": 8}, "The batch must divide by the 8 devices"),
        ({"mesh.data": 16}, "The mesh must not be larger than the devices"),
        ({"model.dim": 20, "model.heads": 8}, "`heads` must divide `dim`"),
        ({"batch-size": "many"}, "batch-size"),
        ({"batch-size": 2**31 - 1}, "`batch_size`"),
        ({"batch-size": 1000, "epochs": 1}, "The batches of a run must fill"),
        ({"epochs": "1e30"}, "A run must have at most 2147483647 steps"),
        ({"act.max-steps": 2**31 - 1}, "`max_steps`"),
        ({"model.expansion": "1e-9"}, "`expansion` must give"),
        ({"model.expansion": "1e9"}, "`expansion` must give"),
        ({"optim.warmup": 2**40}, "`warmup`"),
        ({"seed": 2**63}, "`seed`"),
        ({"data.build": None, "data.paths": "no-such-folder"}, "no-such-folder"),
    ],
)
def test_bad_settings(
    more: Settings,
    said: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "model.heads" in more:
        more = {**more, "model.mixer": "attention"}
    settings = settings_of(dataset, tmp_path / "run", **more)
    assert said in fails(settings, monkeypatch, capsys)


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
    ("spoil", "said"),
    [
        (bad_file, "Could not use the run directory"),
        (bad_proc, "Could not use the run directory"),
        (bad_json, "config.json` is damaged"),
        (bad_bytes, "config.json` is damaged"),
        (bad_checkpoints, "Could not open the checkpoints"),
    ],
)
def test_a_bad_run_directory(
    spoil: Callable[[Path], Path],
    said: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = settings_of(dataset, spoil(tmp_path / "bad"), **{"mesh.data": 1})
    assert said in fails(settings, monkeypatch, capsys)


def test_a_run_of_another_configuration(
    complete: Path,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = settings_of(dataset, complete, seed=3, **{"mesh.data": 1})
    said = fails(settings, monkeypatch, capsys)
    assert "holds a run of another configuration: seed: 0 -> 3" in said


def test_checkpoints_know_their_configuration(
    complete: Path,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(complete / "checkpoints", tmp_path / "checkpoints")
    more = {"model.dim": 32, "mesh.data": 1}
    said = fails(settings_of(dataset, tmp_path, **more), monkeypatch, capsys)
    assert "holds a run of another configuration: model.dim: 16 -> 32" in said


@pytest.mark.slow
def test_missing_data_and_no_network(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {"epochs": 12, "run-dir": tmp_path / "run"}
    command = ["train.trm", "sudoku", *words(settings)[1:]]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as caught, cli.clean_exit():
        main(*cli.parse(TRM_PRESETS, ""))
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert (
        f"python -m data.prepare sudoku --out {TRM_PRESETS['sudoku'][1].data.paths[0]}"
        in said
    )
    assert "--train-csv train.csv --test-csv test.csv" in said
    assert "Traceback" not in said
