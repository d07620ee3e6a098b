"""Runs of `python -m train.trm` on mazes that it generates."""

import re

import pytest

from tests import runs


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["trm", "eqr"])
def test_answers_are_checked_by_the_rules(tmp_path, variant):
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
    share = re.search(r"([\d.]+) +by_the_rules", out)
    assert share, out
    assert 0.0 <= float(share[1]) <= 1.0
    board = out.split("puzzle ")[-1]
    assert "S" in board
    assert "G" in board
