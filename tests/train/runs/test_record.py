"""`config.json`, written and read."""

from dataclasses import replace
from typing import Any

import pytest

from configs import UserError
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.runs.record import differences, parse, settings

PRESETS: Any = {**TRM_PRESETS, **GPT_PRESETS}


def tree(name: str) -> dict[str, Any]:
    kind = "trm" if name in TRM_PRESETS else "gpt"
    return settings(PRESETS[name][1]) | {"recorded": {"kind": kind}}


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_is_read_as_it_was_written(name: str) -> None:
    assert parse(tree(name), "run") == (PRESETS[name][1], tree(name)["recorded"])


@pytest.mark.parametrize("change", [{"unheard_of": 1}, {"recorded": {}}])
def test_another_version_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="`run`"):
        parse(tree("sudoku") | change, "run")


def test_a_missing_setting_has_its_default() -> None:
    old = tree("gpt2")
    del old["optim"]["muon"], old["model"]["norm"]
    new = GPT_PRESETS["gpt2"][1]
    assert parse(old, "run")[0] == new
    other = replace(new, model=replace(new.model, norm="rms"))
    assert differences(new, other) == ["model.norm: layer -> rms"]


def test_different_settings_are_listed() -> None:
    lines = differences(PRESETS["sudoku"][1], PRESETS["sudoku-attention"][1])
    assert [line.split(":")[0] for line in lines] == ["model.mixer", "model.positions"]
