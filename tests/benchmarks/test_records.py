import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import machine, time_to_accuracy
from benchmarks.check_record import TARGETS, check, line, main
from configs import UserError
from train import cli
from train.presets import PRESETS

PAGE = Path(__file__).parents[2] / "benchmarks" / "records" / "README.md"


def run(seed: int, **changes: Any) -> dict[str, Any]:
    value = {1: 0.995, 2: 0.993, 3: 0.986}[seed]  # one is below the target
    record = {
        "task": "6x6 Sudoku",
        "recipe": "quickstart",
        "command": f"train.trm quickstart --config.seed {seed}",
        "seed": seed,
        "prepared": False,
        "metric": "exact_accuracy",
        "seconds": 40.0 + seed,
        "curve": [[20.0, 850, 0.9], [39.0, 2500, value]],
        "date": "2026-11-30",
        "cpu": "AMD EPYC (model 17)",
        "cores": 2,
        "devices": "1 x cpu",
        "commit": "0123456789abcdef0123456789abcdef01234567",
    }
    return record | changes


def test_a_record_gives_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for seed in (1, 2, 3):
        files.append(tmp_path / f"{seed}.json")
        files[-1].write_text(json.dumps(run(seed)))
    main([str(file) for file in files])
    assert capsys.readouterr().out == (
        "| 42.0 | 41.0, 42.0, 43.0 | 0.9950, 0.9930, 0.9860 | 2 x AMD EPYC (model 17) "
        "| `train.trm quickstart` | `0123456` | 2026-11-30 |\n"
    )


def test_a_loss_must_fall_and_a_gpu_is_one_device() -> None:
    loss = {"task": "tiny Shakespeare", "metric": "val_loss", "cores": 1}
    curve = lambda value: {"curve": [[30.0, 250, value]]}
    check([run(seed, **loss, **curve(1.89)) for seed in (1, 2, 3)])
    with pytest.raises(UserError, match=r"must reach 1\.9: it is 1\.91"):
        check([run(seed, **loss, **curve(1.91)) for seed in (1, 2, 3)])
    gpu = {"task": "Sudoku-Extreme 1k", "devices": "1 x NVIDIA H200"}
    runs = [run(seed, **gpu) for seed in (1, 2, 3)]
    check(runs)
    assert "| 1 x NVIDIA H200 |" in line(runs)
    with pytest.raises(UserError, match="one accelerator: got 2 cores and 8 x"):
        check([run(s, **{**gpu, "devices": "8 x NVIDIA H200"}) for s in (1, 2, 3)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2}, "different seeds"),
        ({"seed": None}, "different seeds"),
        ({"commit": "f" * 40}, "the same `commit`"),
        ({"cpu": "another"}, "the same `cpu`"),
        ({"command": "train.trm sudoku-easy --config.seed 1"}, "the same `command`"),
    ],
)
def test_one_run_that_differs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check([run(1) | changes, run(2), run(3)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commit": "0" * 40 + "-dirty"}, "must be committed"),
        ({"commit": ""}, "must be committed"),
        ({"task": "mazes"}, "one of 6x6 Sudoku"),
        ({"cores": 4}, "2 cores: got 4"),
        ({"devices": "1 x NVIDIA H200"}, "2 cores: got 2 cores and 1 x NVIDIA"),
        ({"metric": "accuracy"}, "must be exact_accuracy"),
        ({"curve": [[1.0, 1, 0.98]]}, r"must reach 0\.99: it is 0\.9800"),
    ],
)
def test_a_broken_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check([run(seed, **changes) for seed in (1, 2, 3)])


def test_two_runs_are_no_record() -> None:
    with pytest.raises(UserError, match="must be 3 runs"):
        check([run(1), run(2)])


def test_the_commands_of_the_page_fit_its_targets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []
    monkeypatch.setattr(
        time_to_accuracy, "run", lambda settings, seed: given.append((settings, seed))
    )
    text = PAGE.read_text().replace("\\\n", " ")
    for words in re.findall(r"python -m benchmarks.time_to_accuracy (.*)", text):
        time_to_accuracy.main(shlex.split(words))
    assert [seed for _, seed in given] == [1, 2, 3] * len(TARGETS)
    for (settings, _), (task, target) in zip(given[::3], TARGETS.items(), strict=True):
        assert (settings.task, settings.metric) == (task, target.metric)
        assert len(settings.cores) == (target.cores or 0)
        cli.parse(PRESETS, "", settings.command.split()[1:])


def test_seeds_and_datasets_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "text").write_text("kept")
    commands = []

    def start(command: str, root: Path, folder: Path) -> subprocess.Popen[bytes]:
        commands.append(command)
        assert (folder / "datasets" / "text").read_text() == "kept"
        row = {"step": 5, "split": "eval", "exact_accuracy": 0.75}
        (folder / "run").mkdir()
        (folder / "run" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(machine, "start", start)
    monkeypatch.setattr(machine, "devices", lambda: "1 x cpu")
    words = ["run", "--task", "6x6 Sudoku", "--recipe", "r", "--seeds", "1", "7"]
    words += ["--command", "train.trm quickstart", "--out", str(tmp_path / "out")]
    time_to_accuracy.main([*words, "--datasets", str(tmp_path / "data")])
    assert commands == [f"train.trm quickstart --config.seed {n}" for n in (1, 7)]
    files = (tmp_path / "out").glob("*.json")
    records = [json.loads(file.read_text()) for file in files]
    assert sorted(record["seed"] for record in records) == [1, 7]
    for record in records:
        assert (
            record["command"] == f"train.trm quickstart --config.seed {record['seed']}"
        )
        assert record["prepared"]
        assert record["devices"] == "1 x cpu"
        assert record["curve"][-1][1:] == [5, 0.75]


def test_a_commit_with_changes_is_dirty(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        name = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
        subprocess.run(["git", "-C", tmp_path, *name, *words], check=True)

    assert machine.commit(tmp_path) == ""
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    git("tag", "v1")
    clean = machine.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (tmp_path / "data").write_text("not tracked")
    assert machine.commit(tmp_path) == clean
    (tmp_path / "file").write_text("2")
    assert machine.commit(tmp_path) == f"{clean}-dirty"


def test_devices_are_those_of_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert re.fullmatch(r"\d+ x cpu", machine.devices())
