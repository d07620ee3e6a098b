"""A run with its directory in an object store."""

import json
import subprocess
from pathlib import Path

import pytest

from data.storage import AnyPath, open_path
from tests import runs
from tests.runs import ROOT, finish, metrics, wait_for
from train.runs.stored import saved_steps

pytestmark = pytest.mark.slow

SETTINGS: runs.Settings = {
    **runs.TINY,
    "epochs": 6,
    "eval.epochs": 3,
    "run.save-every": 16,
}


def start(run_dir: AnyPath, data: AnyPath, *more: str) -> subprocess.Popen[str]:
    where = {"run-dir": run_dir, "data.paths": data}
    words = runs.words("quickstart", {**SETTINGS, **where})
    return runs.start("train.trm", [*words, *more])


def test_killed_and_resumed_and_evaluated(
    bucket: str, dataset: Path, tmp_path: Path
) -> None:
    """Equal bit for bit to an uninterrupted run on a disk."""
    folder = open_path(f"{bucket}/{tmp_path.name}/run")
    finish(start(tmp_path / "run", dataset))

    killed = start(folder, dataset)
    wait_for(lambda: saved_steps(folder / "checkpoints"), killed)
    killed.kill()
    killed.communicate()
    reached = max(saved_steps(folder / "checkpoints"))
    assert reached < 48, "it must be killed before the end"

    _, err = finish(start(folder, dataset), 2)
    assert str(killed.pid) in err
    (folder / "lock").unlink()
    out, _ = finish(start(folder, dataset))
    assert f"step {reached}" in out
    assert metrics(folder) == metrics(tmp_path / "run")
    assert not (folder / "lock").exists()

    finish(start(folder, dataset, "--config.run.eval-only"))
    line = json.loads((folder / "evaluations.jsonl").read_text())
    out = tmp_path / "results.json"
    words = ["--run-dir", str(folder), "--checkpoints", "newest", "--out", str(out)]
    finish(runs.start("train.evaluate", words))
    (result,) = json.loads(out.read_text())["results"]
    assert line["step"] == 48
    assert result["step"] == 48
    for values in (line, result["values"]):
        assert values["accuracy"] == metrics(folder)[-1]["accuracy"]
    assert not (ROOT / "gs:").exists()
