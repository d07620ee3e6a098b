"""The recipes as a reader meets them."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import trm.objective
from configs import (
    EvalConfig,
    GeneratedSudoku,
    MeshConfig,
    PuzzleDataConfig,
    RunConfig,
)
from data.build import prepare
from tests.runs import ROOT
from train.presets import TRM_PRESETS
from train.trm import main

PACKAGES = tuple(str(ROOT / name) for name in ("train", "trm", "gpt", "data"))


def test_the_loss_is_ten_calls_below_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted where it is traced: calls of ours, the module's own body among them."""
    prepare(GeneratedSudoku(size=4, train=8, test=4), tmp_path / "data")
    config = replace(
        TRM_PRESETS["quickstart"][1],
        batch_size=8,
        epochs=1.0,
        run_dir=str(tmp_path / "run"),
        data=PuzzleDataConfig(paths=(str(tmp_path / "data"),)),
        mesh=MeshConfig(data=1),
        eval=EvalConfig(batch_size=4),
        run=RunConfig(compilation_cache=None),
    )
    calls: list[list[str]] = []
    loss = trm.objective.puzzle_loss

    def noted(*arguments: object, **options: object) -> object:
        frame, names = sys._getframe(1), ["puzzle_loss"]
        while frame is not None:
            if frame.f_code.co_filename.startswith(PACKAGES):
                names.append(frame.f_code.co_name)
            frame = frame.f_back
        calls.append(names[::-1])
        return loss(*arguments, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(trm.objective, "puzzle_loss", noted)
    assert main("quickstart", config) == 0
    training = calls[0]
    assert training[0] == "main"
    assert "supervision_loss" in training
    assert 1 + len(training) <= 10, training
