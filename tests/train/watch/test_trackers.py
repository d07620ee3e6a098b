"""Trackers of numbers: files, W&B and TensorBoard."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs import RunConfig, UserError
from train.runs.metrics_file import scores
from train.watch.speed import Values
from train.watch.trackers import Tracker, open_trackers, require_packages

NUMBERS: Values = {"eval/loss": 0.5, "eval/accuracy": None, "eval/score": -0.5}


def open_all(folder: Path, done: int = 0, **config: Any) -> list[Tracker]:
    return open_trackers(folder, RunConfig(**config), {"a": 1}, name="id", done=done)


def test_a_metrics_file_has_a_row_for_each_step(tmp_path: Path) -> None:
    """After resuming, later rows and an incomplete last line are dropped."""
    (file,) = open_all(tmp_path)
    for step in (2, 4, 6):
        file.log(NUMBERS, step)
    path = tmp_path / "metrics.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    assert list(first.items()) == [
        ("step", 2),
        ("split", "eval"),
        ("loss", 0.5),
        ("accuracy", None),
        ("score", -0.5),
    ]
    with path.open("a") as text:
        text.write('{"step": 3, "spl')
    (file,) = open_all(tmp_path, done=4)
    file.log({"train/loss": 1.0}, 5)
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [2, 4, 5]
    assert scores(tmp_path) == {2: -0.5, 4: -0.5}


def test_wandb_and_tensorboard_get_finite_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    class Fake:
        def __init__(self, *args: Any, **options: Any):
            calls.append((args, options))

        def log(self, numbers: dict[str, float], step: int) -> None:
            calls.append((numbers, step))

        def add_scalar(self, *scalar: Any) -> None:
            calls.append(scalar)

        def finish(self) -> None:
            calls.append("finish")

        def close(self) -> None:
            calls.append("close")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=Fake))
    fake = SimpleNamespace(SummaryWriter=Fake)
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    trackers = open_all(tmp_path, wandb="project", tensorboard=True)[1:]
    (_, options), (writer, _) = calls
    calls.clear()
    assert (options["project"], options["id"]) == ("project", "id")
    assert writer == (str(tmp_path / "tensorboard"),)
    for tracker in trackers:
        tracker.log(NUMBERS | {"eval/rate": float("inf")}, 7)
        tracker.close()
    finite = {"eval/loss": 0.5, "eval/score": -0.5}
    scalars = [(name, value, 7) for name, value in finite.items()]
    assert calls == [(finite, 7), "finish", *scalars, "close"]


@pytest.mark.parametrize(
    ("package", "config"),
    [("wandb", {"wandb": "project"}), ("tensorboardX", {"tensorboard": True})],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, package: str, config: dict[str, Any]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=package):
        require_packages(RunConfig(**config))
