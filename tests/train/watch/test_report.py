import importlib.util
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from configs import RunConfig
from train.watch.report import (
    Report,
    averages,
    readable,
    require_packages,
)


def lines(folder: Path) -> list[dict]:
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def report(folder: Path, done: int = 0, **config: Any) -> Report:
    return Report(folder, RunConfig(**config), {}, total=10, done=done)


def test_an_average_of_nothing_is_none() -> None:
    metrics = {
        "loss": (jnp.float32(3.0), jnp.float32(4.0)),
        "accuracy": (jnp.float32(0.0), jnp.float32(0.0)),
    }
    assert averages(metrics) == {"loss": 0.75, "accuracy": None}
    assert readable(averages(metrics)) == ["loss 0.75"]


def test_a_line_for_each_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = report(tmp_path)
    made.progress(1)
    made.progress(2)
    values = {"accuracy": None, "grad_norm": 3.0, "loss": 0.5}
    made.record(2, "train", values, {"examples_per_second": 8.0})
    assert len(lines(tmp_path)) == 1, "written at once, not at the end"
    made.record(2, "time", {"save_seconds": 1.5})
    made.record(2, "eval", {"loss": 0.25})
    made.close()
    train, *rest = lines(tmp_path)
    assert list(train.items()) == [
        ("step", 2),
        ("split", "train"),
        ("loss", 0.5),
        ("accuracy", None),
        ("examples_per_second", 8.0),
        ("grad_norm", 3.0),
    ], "loss and accuracy first, then the speed"
    assert rest == [
        {"step": 2, "split": "time", "save_seconds": 1.5},
        {"step": 2, "split": "eval", "loss": 0.25},
    ]
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("train 2/10 (0:0")
    assert first.endswith("left)  loss 0.5  8 examples/s  grad_norm 3")
    assert second.endswith("loss 0.25")


def test_a_resumed_report_goes_on_after_the_checkpoint(tmp_path: Path) -> None:
    """Steps after it are dropped, and so is the end of a line that was cut off."""
    first = report(tmp_path)
    for step in range(1, 7):
        first.record(step, "train", {"loss": 1.0 / step})
    first.close()
    before = lines(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "spl')
    second = report(tmp_path, done=4)
    second.record(5, "train", {"loss": 0.125})
    second.close()
    assert lines(tmp_path)[:4] == before[:4]
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5]


def test_an_evaluation_is_recorded_once(tmp_path: Path) -> None:
    made = report(tmp_path)
    made.record(4, "eval", {"loss": 2.0, "score": -2.0})
    made.close()
    assert report(tmp_path, done=4).knows(4)
    assert not report(tmp_path, done=3).knows(4)


@pytest.mark.parametrize(
    ("package", "config"),
    [("wandb", {"wandb": "project"}), ("tensorboardX", {"tensorboard": True})],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, package: str, config: dict
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"needs the package {package}.*pip install"):
        require_packages(RunConfig(**config))
