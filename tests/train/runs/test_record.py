"""`config.json` says what a run was."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs import TrainGPT, TrainTRM, UserError
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.runs.record import differences, from_settings, recorded_run, settings


@pytest.mark.parametrize("name", [*TRM_PRESETS, *GPT_PRESETS])
def test_settings_come_back_as_they_were(name: str) -> None:
    """The class of each union too."""
    presets: Any = TRM_PRESETS if name in TRM_PRESETS else GPT_PRESETS
    preset = presets[name][1]
    assert from_settings(type(preset), settings(preset)) == preset


def test_settings_of_another_version_are_refused() -> None:
    tree = settings(TRM_PRESETS["sudoku"][1])
    with pytest.raises(UserError, match="another setting"):
        from_settings(TrainTRM, tree | {"unheard_of": 1})


def test_a_run_of_the_first_version_says_its_kind(tmp_path: Path) -> None:
    """It has no record, and does not say the class of what made its data."""
    for kind, presets in (("trm", TRM_PRESETS), ("gpt", GPT_PRESETS)):
        folder = tmp_path / kind
        folder.mkdir()
        tree = settings(next(iter(presets.values()))[1])
        del tree["data"]["build"]["class"]
        (folder / "config.json").write_text(json.dumps(tree))
        found, loaded, record = recorded_run(folder)
        assert (found, record) == (kind, {})
        assert isinstance(loaded, TrainTRM if kind == "trm" else TrainGPT)
        assert loaded.data.build is None


def test_a_setting_younger_than_the_run_had_its_default() -> None:
    new = settings(GPT_PRESETS["gpt2"][1])
    old = settings(GPT_PRESETS["gpt2"][1])
    del old["optim"]["muon"], old["model"]["norm"]
    assert differences(old, new) == []
    new["model"]["norm"] = "rms"
    assert differences(old, new) == ["model.norm: layer -> rms"]


def test_unlike_settings_are_listed() -> None:
    old = settings(TRM_PRESETS["sudoku"][1])
    new = settings(TRM_PRESETS["sudoku-attention"][1])
    assert [line.split(":")[0] for line in differences(old, new)] == [
        "model.mixer",
        "model.positions",
    ]
