"""The code of `docs/own-experiment.md`, as a reader would run it."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from configs import GeneratedSudoku
from data.build import prepare
from tests import runs

pytestmark = pytest.mark.slow  # it trains for 1000 steps
PAGE = runs.ROOT / "docs" / "own-experiment.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder outside of the repository: the page's file, run for 1000 steps."""
    folder = tmp_path_factory.mktemp("elsewhere")
    small = GeneratedSudoku(size=4, train=200, test=64)
    prepare(small, folder / "datasets/sudoku-6x6")
    code = re.search(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.M)[1]
    assert len(code.splitlines()) <= 60
    code = code.replace('run_dir="runs/settled"', 'run_dir="runs/settled", epochs=80.0')
    (folder / "settled.py").write_text(code)
    (folder / "out").write_text(python(folder, "settled.py"))
    return folder


def python(folder, *words):
    """Run Python in a folder; return its output."""
    environment = runs.environment(PYTHONPATH=str(runs.ROOT))
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_loss_metric_hook_and_tracker_of_ones_own(folder):
    lines = (folder / "runs/settled/metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] != "time"]
    assert {"train", "eval"} == {row["split"] for row in rows}
    assert all(0 < row["confidence"] <= 1 for row in rows)
    assert all(row["change_loss"] > 0 for row in rows if row["split"] == "train")
    assert all(next(iter(row)) == "step" and list(row)[2] == "lm_loss" for row in rows)
    out = (folder / "out").read_text()
    assert re.findall(r"(\d+) norm: ", out) == ["1000"]
    assert "best score: " in out


def test_its_halting_rule_holds_in_evaluation(folder):
    """By the name in `config.json`, or the file from elsewhere."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "datasets").symlink_to(folder / "datasets")
    evaluate = ["-m", "train.evaluate", "--mode", "halt", "--puzzles", "64"]
    evaluate += ["--run-dir", str(folder / "runs/settled"), "--out", "found.json"]
    found = []
    for where, more in ((folder, []), (elsewhere, ["--experiment", "../settled.py"])):
        python(where, *evaluate, *more)
        (result,) = json.loads((where / "found.json").read_text())["results"]
        found.append(result["values"])
    assert found[0] == found[1]
    assert "confidence" in found[0]
    assert found[0]["steps"] < 8.0, "the most steps"


def test_it_resumes_and_is_loaded(folder):
    copy = folder / "copy"
    shutil.copytree(folder / "runs", copy / "runs")
    shutil.copytree(folder / "datasets", copy / "datasets")
    shutil.copy(folder / "settled.py", copy)
    load = "from train.runs.loading import load_run\nrun = load_run('runs/settled'{})\n"
    show = "print(run.step, run.experiment.__name__)"
    code = load.format("") + show
    named = "from settled import Settled\n" + load.format(", experiment=Settled") + show
    found = python(copy, "-c", code)
    assert found.endswith(" Settled\n")
    assert found == python(copy, "-c", named)
    assert "The run is complete" in python(copy, "settled.py")
