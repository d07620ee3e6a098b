"""Several seeds of one experiment, by one command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest

from configs import (
    ACTConfig,
    EvalConfig,
    GeneratedSudoku,
    MeshConfig,
    PuzzleDataConfig,
    RunConfig,
    TrainTRM,
)
from data.build import prepare
from tests.runs import metrics
from train.presets import TRM_PRESETS
from train.trm import main

pytestmark = pytest.mark.filterwarnings("ignore:Some donated buffers")


@pytest.fixture
def config(tmp_path: Path) -> TrainTRM:
    """10 steps for each of the seeds 3 and 5."""
    prepare(GeneratedSudoku(size=4, train=40, test=8), tmp_path / "sudoku-4x4")
    preset = TRM_PRESETS["quickstart"][1]
    return replace(
        preset,
        batch_size=8,
        epochs=2.0,
        seeds=(3, 5),
        run_dir=str(tmp_path / "run"),
        model=replace(preset.model, dim=16, puzzle_dim=16, layers=1),
        act=ACTConfig(max_steps=2),
        data=PuzzleDataConfig(paths=(str(tmp_path / "sudoku-4x4"),), build=None),
        mesh=MeshConfig(data=1),
        eval=EvalConfig(epochs=2.0, batch_size=8),
        run=RunConfig(log_every=1, save_every=4, keep_last=9, compilation_cache=None),
    )


@pytest.mark.slow
def test_seeds_follow_each_other_and_resume(
    config: TrainTRM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("quickstart", config) == 0
    folders = [tmp_path / "run" / f"seed{seed}" for seed in (3, 5)]
    lines = [metrics(folder) for folder in folders]
    assert lines[0] != lines[1]
    losses = [line[-1]["lm_loss"] for line in lines]
    summary = f"{mean(losses):.4f} +- {stdev(losses):.4f}  lm_loss"
    assert summary in capsys.readouterr().out
    alone = replace(config, seed=5, seeds=(), run_dir=str(tmp_path / "alone"))
    assert main("quickstart", alone) == 0
    assert metrics(tmp_path / "alone") == lines[1]
    capsys.readouterr()

    # As if it had been killed while the second was trained.
    shutil.rmtree(folders[1] / "checkpoints" / "10")
    path = folders[1] / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= 9]
    path.write_text("".join(kept))
    assert main("quickstart", config) == 0
    out = capsys.readouterr().out
    assert str(folders[0]) + ":" not in out, "the complete run is not repeated"
    assert summary in out
    assert [metrics(folder) for folder in folders] == lines

    beside = str(tmp_path / "beside")
    run = replace(config.run, seeds_at_once=2)
    assert main("quickstart", replace(config, run=run, run_dir=beside)) == 0
    assert summary in capsys.readouterr().out
    assert [metrics(Path(beside) / folder.name) for folder in folders] == lines
    assert "train 9/10" in (Path(beside) / "5.log").read_text()


def test_seeds_are_distinct(config: TrainTRM) -> None:
    with pytest.raises(ValueError, match="3, 3"):
        replace(config, seeds=(3, 3))
