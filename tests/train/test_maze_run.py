"""Runs on mazes made up on the way, as `python -m train.trm` makes them."""

import re

import pytest

from tests import runs


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["trm", "eqr"])
def test_a_run_is_judged_by_the_rules(tmp_path, variant):
    argv = runs.words(
        "maze-small",
        {
            "run-dir": tmp_path / "run",
            "batch-size": 8,
            "epochs": 2,
            "model.variant": variant,
            "model.dim": 16,
            "model.puzzle-dim": 16,
            "data.paths": tmp_path / "mazes",
        },
    )
    build = []
    for name, value in (("size", 6), ("train", 40), ("test", 20)):
        build += [f"--config.data.build.{name}", str(value)]
    out, _ = runs.finish(runs.start("train.trm", [*argv, *build]))
    assert "building" in out
    found = re.search(r"([\d.]+) +by_the_rules +solved of the first 20, by the", out)
    assert found, out
    assert 0.0 <= float(found[1]) <= 1.0
    drawn = out.split("puzzle ")[-1]
    assert "S" in drawn
    assert "G" in drawn
