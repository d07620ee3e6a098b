"""A run whose directory lies in an object store."""

import json
import subprocess
from pathlib import Path

import pytest

from configs import GeneratedSudoku
from data.build import prepare
from data.storage import AnyPath, open_path
from tests import runs
from tests.runs import ROOT, finish, metrics, wait_for
from train.runs.stored import saved_steps

pytestmark = pytest.mark.slow

SETTINGS: runs.Settings = {
    "batch-size": 8,
    "epochs": 6,
    "model.dim": 16,
    "model.puzzle-dim": 16,
    "model.layers": 1,
    "act.max-steps": 3,
    "eval.epochs": 3,
    "eval.batch-size": 8,
    "run.save-every": 16,
    "run.log-every": 1,
}


def start(run_dir: AnyPath, data: AnyPath, *more: str) -> subprocess.Popen[str]:
    where = {"run-dir": run_dir, "data.paths": data}
    words = runs.words("quickstart", {**SETTINGS, **where})
    return runs.start("train.trm", [*words, *more])


def test_killed_and_resumed_and_evaluated(bucket: str, tmp_path: Path) -> None:
    """The same bit for bit as a run on a disk that nothing has interrupted."""
    data, folder = tmp_path / "sudoku-4x4", open_path(f"{bucket}/{tmp_path.name}/run")
    prepare(GeneratedSudoku(size=4, train=64, test=16), data)
    finish(start(tmp_path / "run", data))

    killed = start(folder, data)
    wait_for(lambda: saved_steps(folder / "checkpoints"), killed)
    killed.kill()
    killed.communicate()
    reached = max(saved_steps(folder / "checkpoints"))
    assert reached < 48, "it was to be killed on the way"

    _, err = finish(start(folder, data), 2)
    assert f"process {killed.pid} on" in err
    (folder / "lock").unlink()
    out, _ = finish(start(folder, data))
    assert f"Going on from step {reached}" in out
    assert metrics(folder) == metrics(tmp_path / "run")
    assert not (folder / "lock").exists()

    finish(start(folder, data, "--config.run.eval-only"))
    line = json.loads((folder / "evaluations.jsonl").read_text())
    out = tmp_path / "found.json"
    words = ["--run-dir", str(folder), "--checkpoints", "newest", "--out", str(out)]
    finish(runs.start("train.evaluate", words))
    (result,) = json.loads(out.read_text())["results"]
    assert line["step"] == 48
    for found in (line, {"step": result["step"], **result["values"]}):
        assert found["step"] == 48
        assert found["accuracy"] == metrics(folder)[-1]["accuracy"]
    assert not (ROOT / "gs:").exists()
