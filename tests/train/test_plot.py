"""`python -m train.plot`: what the curves are of, and what cannot be plotted."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import UserError
from train import plot
from train.plot import Curves, main
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.runs.run_dir import RunDir

TRAIN = {"split": "train", "lm_loss": 2.0, "exact_accuracy": None}


def write(
    folder: Path, *rows: Mapping[str, object], kind: str = "trm", **changes: Any
) -> str:
    """A run of batches of 32 (a GPT: 12) with these lines of metrics."""
    presets = {
        "trm": replace(TRM_PRESETS["quickstart"][1], batch_size=32),
        "gpt": GPT_PRESETS["shakespeare-char-cpu"][1],
    }
    config = replace(presets[kind], run_dir=str(folder), **changes)
    run_dir = RunDir(config, "test", {"kind": kind, "sizes": {}, "data_hash": "a"})
    run_dir.write_config()
    run_dir.close()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + '{"step": 30, "spl')  # being written
    return str(folder)


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Ten steps at 8 examples a second, ten at 16, with an evaluation between."""
    rate = "examples_per_second"
    return write(
        tmp_path / "run",
        {"step": 20, **TRAIN, "lm_loss": 1.0, "exact_accuracy": 0.5, rate: 16.0},
        {"step": 10, **TRAIN, rate: 8.0},
        {
            "step": 15,
            "split": "eval",
            "lm_loss": 1.5,
            "exact_accuracy": 0.25,
            rate: 1.0,
        },
    )


def test_points_are_the_lines_in_order(run: str) -> None:
    """What was not counted is left out."""
    curves = Curves.read(run)
    assert curves.points("lm_loss", "train", "steps").tolist() == [[10, 2], [20, 1]]
    assert curves.points("lm_loss", "eval", "steps").tolist() == [[15, 1.5]]
    assert curves.points("exact_accuracy", "train", "steps").tolist() == [[20, 0.5]]
    assert curves.points("nothing", "eval", "steps").shape == (0, 2)


def test_minutes_are_those_of_training(run: str) -> None:
    """10 steps of 32 at 8 a second: 40 s; then 20 s; the evaluation's own are none."""
    minutes = Curves.read(run).minutes(np.array([10.0, 15.0, 20.0]))
    np.testing.assert_allclose(minutes * 60, [40, 50, 60])


def test_minutes_of_other_batches(tmp_path: Path) -> None:
    """A line says its batch if that changes; each is worked on four times."""
    rate = {"examples_per_second": 32.0}
    path = write(
        tmp_path / "run",
        {"step": 10, **TRAIN, **rate, "batch_size": 32},
        {"step": 20, **TRAIN, **rate, "batch_size": 64},
        supervision_steps=4,
    )
    minutes = Curves.read(path).minutes(np.array([10.0, 15.0, 20.0]))
    np.testing.assert_allclose(minutes * 60, [40, 80, 120])


def test_a_gpt_has_the_loss_of_its_validation(tmp_path: Path) -> None:
    path = write(
        tmp_path / "gpt",
        {"step": 1, "split": "train", "loss": 3.0, "examples_per_second": 1.0},
        {"step": 2, "split": "eval", "train_loss": 2.0, "val_loss": 2.5},
        kind="gpt",
    )
    assert Curves.read(path).points("loss", "eval", "steps").tolist() == [[2, 2.5]]
    (panel,) = plot.plot([path]).axes
    assert panel.get_title(loc="left") == "loss"
    assert len(panel.lines) == 2


def test_a_panel_for_each_metric_and_a_colour_for_each_run(
    run: str, tmp_path: Path
) -> None:
    other = write(tmp_path / "other", {"step": 5, **TRAIN, "examples_per_second": 1.0})
    figure = plot.plot([run, other], x="minutes", log=True)
    loss, accuracy = figure.axes
    assert [line.get_label() for line in loss.lines] == [
        "run, training",
        "run, evaluation",
        "other, training",
    ]
    colours = [line.get_color() for line in loss.lines]
    assert colours[0] == colours[1] != colours[2]
    assert loss.get_yscale() == "log"
    assert accuracy.get_ylim() == (-0.02, 1.02)
    assert loss.get_xlabel() == "minutes of training"


def test_runs_of_one_name_are_told_apart(run: str, tmp_path: Path) -> None:
    other = write(tmp_path / "b" / "run", {"step": 5, **TRAIN})
    labels = [line.get_label() for line in plot.plot([run, other]).axes[0].lines]
    assert len(set(labels)) == 3


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_the_same_curves_are_the_same_file(
    run: str, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [tmp_path / "new" / f"{i}.{ending}" for i in range(2)]
    for name in names:
        main([run, "--out", str(name)])
    assert capsys.readouterr().out.splitlines() == list(map(str, names))
    first, second = (name.read_bytes() for name in names)
    assert first == second
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[ending]
    assert first.startswith(start)
    if ending == "svg":
        assert b"exact accuracy</text>" in first, "text that can be searched"


def test_what_cannot_be_plotted(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = write(tmp_path / "empty")
    for argv, message in (
        ([str(tmp_path / "no")], "no/config.json"),
        ([empty], "must have metrics to plot"),
        ([run, "--out", "a.jpeg"], r"ends in .svg, .png or .pdf: got `a.jpeg`"),
        (
            [run, "--metrics", "los"],
            "must be one that the runs have: got `los`. Use one of exact_accuracy, e",
        ),
    ):
        with pytest.raises(UserError, match=message):
            main(argv)
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"need the package matplotlib.*'.\[show\]'"):
        main([run])
