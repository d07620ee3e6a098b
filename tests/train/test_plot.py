"""`python -m train.plot`: points, panels and files."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import UserError
from data.storage import read_text
from train import plot
from train.plot import Curves, main
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.runs.run_dir import RunDir
from train.tradeoff import read_points
from trm.summary import wilson

TRAIN = {"split": "train", "lm_loss": 2.0, "exact_accuracy": None}
RATE = "examples_per_second"


def write(
    folder: Path, *rows: Mapping[str, object], kind: str = "trm", **changes: Any
) -> Path:
    """Write a run of batches of 32 (a GPT: 12) with these rows of metrics."""
    presets = {
        "trm": replace(TRM_PRESETS["quickstart"][1], batch_size=32),
        "gpt": GPT_PRESETS["shakespeare-char-cpu"][1],
    }
    config = replace(presets[kind], run_dir=str(folder), **changes)
    run_dir = RunDir(config, "test", {"kind": kind, "sizes": {}, "data_hash": "a"})
    run_dir.write_config()
    run_dir.close()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + '{"step": 30, "spl')  # incomplete
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Ten steps at 8 examples a second, ten at 16, and an evaluation in between."""
    return write(
        tmp_path / "run",
        {"step": 20, **TRAIN, "lm_loss": 1.0, "exact_accuracy": 0.5, RATE: 16.0},
        {"step": 10, **TRAIN, RATE: 8.0},
        {"step": 15, "split": "eval", "lm_loss": 1.5, "exact_accuracy": 0.25},
    )


def test_points_are_ordered_and_without_empty_values(run: Path) -> None:
    curves = Curves.read(run)
    assert curves.points("lm_loss", "train").tolist() == [[10, 2], [20, 1]]
    assert curves.points("lm_loss", "eval").tolist() == [[15, 1.5]]
    assert curves.points("exact_accuracy", "train").tolist() == [[20, 0.5]]
    assert curves.points("nothing", "eval").shape == (0, 2)


def test_minutes_are_those_of_training(run: Path) -> None:
    """10 steps of 32 at 8 a second are 40 s; then 20 s. Evaluations do not count."""
    minutes = Curves.read(run).minutes(np.array([10.0, 15.0, 20.0]))
    np.testing.assert_allclose(minutes * 60, [40, 50, 60])


def test_minutes_of_other_batches(tmp_path: Path) -> None:
    """Each batch counts four times."""
    path = write(
        tmp_path / "run",
        {"step": 10, **TRAIN, RATE: 32.0, "batch_size": 32},
        {"step": 20, **TRAIN, RATE: 32.0, "batch_size": 64},
        supervision_steps=4,
    )
    minutes = Curves.read(path).minutes(np.array([10.0, 15.0, 20.0]))
    np.testing.assert_allclose(minutes * 60, [40, 80, 120])


def test_a_gpt_has_the_loss_of_its_validation(tmp_path: Path) -> None:
    path = write(
        tmp_path / "gpt",
        {"step": 1, "split": "train", "loss": 3.0, RATE: 1.0},
        {"step": 2, "split": "eval", "train_loss": 2.0, "val_loss": 2.5},
        kind="gpt",
    )
    (panel,) = plot.plot([path]).axes
    assert panel.get_title(loc="left") == "loss"
    assert [line.get_xydata().tolist() for line in panel.lines] == [
        [[1, 3]],
        [[2, 2.5]],
    ]


@pytest.mark.parametrize("x", ["steps", "minutes"])
def test_seeds_are_a_mean_and_a_band(tmp_path: Path, x: Any) -> None:
    """At the steps that all seeds have."""
    rates = {"seed0": 32 / 60, "seed1": 16 / 60}
    for seed, (folder, rate) in enumerate(rates.items()):
        values = [2.0, 1.0, 0.5][: 3 - seed]
        rows = [
            {"step": step, **TRAIN, "lm_loss": value + seed, RATE: rate}
            for step, value in enumerate(values, 1)
        ]
        write(tmp_path / "run" / folder, *rows)
    panel = plot.plot([tmp_path / "run"], metrics=["lm_loss"], x=x).axes[0]
    (line,), (band,) = panel.lines, panel.collections
    at = [1, 2] if x == "steps" else [1.5, 3]
    np.testing.assert_allclose(line.get_xydata(), np.transpose([at, [2.5, 1.5]]))
    assert line.get_label() == "run, training"
    corners = band.get_paths()[0].vertices
    np.testing.assert_allclose([corners[:, 1].min(), corners[:, 1].max()], [1, 3])


def test_a_panel_for_each_metric_and_a_color_for_each_run(
    run: Path, tmp_path: Path
) -> None:
    other = write(tmp_path / "other", {"step": 5, **TRAIN, RATE: 1.0})
    loss, accuracy = plot.plot([run, other], x="minutes", log=True).axes
    assert [line.get_label() for line in loss.lines] == [
        "run, training",
        "run, evaluation",
        "other, training",
    ]
    colors = [line.get_color() for line in loss.lines]
    assert colors[0] == colors[1] != colors[2]
    assert loss.get_yscale() == "log"
    assert accuracy.get_ylim() == (-0.02, 1.02)


def test_many_runs_have_one_legend(tmp_path: Path) -> None:
    """Beside the panels, and no two runs look alike."""
    runs = [tmp_path / f"run{number}" for number in range(20)]
    for folder in runs:
        write(folder, {"step": 5, **TRAIN, RATE: 1.0})
    figure = plot.plot(runs, metrics=["lm_loss"])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f.name for f in runs]
    assert all(panel.get_legend() is None for panel in figure.axes)
    lines = legend.get_lines()
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert box.y0 >= 0, "it fits"
    assert all(panel.bbox.x1 <= box.x0 for panel in figure.axes)


def test_runs_of_one_name_have_different_labels(run: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "b" / "run", {"step": 5, **TRAIN})
    labels = [line.get_label() for line in plot.plot([run, other]).axes[0].lines]
    assert len(set(labels)) == 3


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_the_same_curves_are_the_same_file(
    run: Path, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [tmp_path / "new" / f"{i}.{ending}" for i in range(2)]
    for name in names:
        main([str(run), "--out", str(name)])
    assert capsys.readouterr().out.splitlines() == list(map(str, names))
    first, second = (name.read_bytes() for name in names)
    assert first == second
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[ending]
    assert first.startswith(start)
    if ending == "svg":
        assert b"exact accuracy</text>" in first, "text that can be searched"


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["no"], "no/config.json"),
        (["empty"], "empty"),
        (["run", "--out", "a.jpeg"], "a.jpeg"),
        (["run", "--metrics", "los"], "`los`.*exact_accuracy"),
        (["run", "--metrics", "split"], "`split`.*exact_accuracy"),
    ],
)
def test_bad_input(
    run: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], value: str
) -> None:
    write(run.parent / "empty")
    monkeypatch.chdir(run.parent)
    with pytest.raises(UserError, match=value):
        main(argv)


def test_a_plot_in_a_bucket(run: Path, bucket: str) -> None:
    """And no folder called `gs:`."""
    out = plot.save(plot.plot([run]), f"{bucket}/curves.svg")
    assert read_text(out).startswith("<?xml")
    assert not Path("gs:").exists()


def test_a_missing_package(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'.\[show\]'"):
        main([str(run)])


def result(folder: Path, name: str, **content: Any) -> str:
    """Write the result of 100 puzzles, 8 steps each, half of them solved."""
    found = {
        "puzzles": 100,
        "scored": 100,
        "work": {"steps": 800},
        "values": {"exact_accuracy": 0.5},
        "curve": {"exact_accuracy": [0.25, 0.5]},
        **content,
    }
    settings = {"mode": content.pop("mode", "fixed"), "rollouts": {}}
    settings["rollouts"] = content.pop("settings", {})
    path = folder / name
    path.write_text(json.dumps({"settings": settings, "results": [found]}))
    return str(path)


def test_points_of_a_tradeoff(tmp_path: Path) -> None:
    shares = {"1/mode": 0.1, "1/best_q": 0.25, "4/best_q": 0.5, "4/any": 1, "one": 0.2}
    rounds = {"steps": [2, 3], "exact_accuracy": [0.25, 0.5], "by_the_rules": [0.5, 1]}
    many = {"settings": {"number": 4}, "rollouts": shares}
    particles = {**many, "settings": {"number": 4, "particles": True}}
    for content, steps, solved in (
        ({}, [1, 2], [0.25, 0.5]),
        ({"mode": "halt"}, [8], [0.5]),
        (many, [2, 8], [0.25, 0.5]),
        (particles, [8], [0.5]),
        ({"clamp": rounds}, [2, 3], [0.25, 0.5]),
    ):
        points = read_points(result(tmp_path, "a.json", **content))
        assert [point.steps for point in points] == steps
        assert [point.solved for point in points] == solved
    low, high = wilson(0.5, 100)  # by a table of Wilson's intervals
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)
    assert points[-1][2:] == (low, high)
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)


def test_a_tradeoff_is_drawn(tmp_path: Path) -> None:
    files = [result(tmp_path, f"{name}.json") for name in ("depth", "two-ways")]
    out = tmp_path / "tradeoff.svg"
    main(["--tradeoff", *files, "--out", str(out)])
    text = read_text(out)
    assert "two ways" in text
    assert "supervision steps" in text
    with pytest.raises(UserError, match=r"tradeoff\.svg is none"):
        plot.plot_tradeoff([out])
    empty = result(tmp_path, "empty.json", scored=0)
    with pytest.raises(UserError, match="puzzles with answers"):
        plot.plot_tradeoff([empty])
