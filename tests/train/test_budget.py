"""A run that ends in time (`run.minutes`), by a clock that the tests move."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs import EvalConfig, RunConfig, UserError
from tests.runs import metrics, quick
from train import budget, running, timed
from train.budget import Budget, Speed, new_length
from train.evaluation import Evaluation
from train.run import train
from train.trm import TRMExperiment
from train.watch import log


@pytest.mark.parametrize(
    ("changes", "total", "expected"),
    [
        ({}, 500, (1090, True)),  # 1000 - 10 of the end, by 0.9 + 10 / 100
        ({}, 1095, (1095, False)),  # near enough
        ({"last": 110.0}, 500, (990, True)),
        ({"compiling": 50.0}, 500, (1040, True)),
        ({"compiling": 101.0}, 500, (1090, False)),  # too long for what is left
        ({"left": -5.0}, 500, (102, False)),  # one dispatch more
        ({"step": 1e-7, "evaluation": 0.0}, 500, (2**31 - 2, True)),
    ],
)
def test_the_length_that_ends_in_time(changes, total: int, expected) -> None:
    measured = {"left": 1000.0, "step": 0.9, "evaluation": 10.0, "last": 10.0}
    speed = Speed(**{**measured, "compiling": 0.0, **changes})
    place = {"done": 100, "total": total, "call": 2, "every": 100}
    assert new_length(speed, 1000.0, **place) == expected


class Clock(SimpleNamespace):
    """A module `time` that stands still but for `now`."""

    now = 0.0
    rate = 1e9
    """Examples a second of evaluations."""

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (budget, running, timed, log):
        monkeypatch.setattr(module, "time", clock)
    evaluate = running.Run.evaluate

    def evaluated(self: running.Run, *args: Any) -> Evaluation:
        evaluation = evaluate(self, *args)
        assert evaluation is not None
        return replace(evaluation, rate=clock.rate)

    monkeypatch.setattr(running.Run, "evaluate", evaluated)
    return clock


def test_the_speed_is_that_without_pauses(clock: Clock) -> None:
    time = Budget(100.0, used=20.0)
    assert time.left() == 80.0
    assert math.isnan(time.step_seconds(4, paused=0.0))
    clock.now = 30.0
    assert time.left() == 50.0
    assert time.step_seconds(9, paused=20.0) == 2.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Some donated buffers")
def test_a_run_ends_in_time_and_so_does_its_schedule(
    dataset: Path, tmp_path: Path, clock: Clock
) -> None:
    """On a machine that gets slower; longer than configured, and resumed."""
    config = quick(
        dataset,
        run_dir=str(tmp_path / "run"),
        run=RunConfig(log_every=1, minutes=5.0, compilation_cache=None),
        eval=EvalConfig(epochs=1000.0, batch_size=8),
    )
    config = replace(config, optim=replace(config.optim, warmup=2, min_ratio=0.1))

    def pass_time(step: int, state: object) -> None:
        clock.now += 1.0 if step <= 100 else 1.5

    assert TRMExperiment(config).total == 32
    assert train(TRMExperiment(config), hooks=[(1, pass_time)]) == 0
    rows = [row for row in metrics(tmp_path / "run") if row["split"] == "train"]
    steps = rows[-1]["step"]
    assert 294 <= clock.now <= 306, "1 % of the time"
    assert 230 <= steps <= 236, "100 in 100 s, the others in 200 s"
    peak = config.optim.lr
    assert rows[-1]["lr"] == pytest.approx(0.1 * peak, rel=0.05)
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["recorded"]
    assert recorded["steps"] == steps
    assert train(TRMExperiment(config)) == 0, "it is complete"
    assert 294 <= clock.now <= 306
    longer = replace(config, run=replace(config.run, minutes=6.0))
    assert train(TRMExperiment(longer), hooks=[(1, pass_time)]) == 0
    assert 350 <= clock.now <= 370


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Some donated buffers")
def test_a_last_evaluation_that_takes_too_long(
    dataset: Path, tmp_path: Path, clock: Clock
) -> None:
    config = quick(
        dataset,
        run_dir=str(tmp_path / "run"),
        run=RunConfig(minutes=1.0, compilation_cache=None),
        eval=EvalConfig(epochs=1000.0, puzzles=8, batch_size=8),
    )
    clock.rate = 0.4

    def pass_time(step: int, state: object) -> None:
        clock.now += 1.0

    with pytest.raises(UserError, match=r"about 0\.7 of 1\..*final-puzzles"):
        train(TRMExperiment(config), hooks=[(1, pass_time)])
