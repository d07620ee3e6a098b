"""What a line of metrics is of: the steps since the line before, and their time."""

import time
from collections.abc import Iterator
from unittest.mock import Mock, create_autospec

import jax.numpy as jnp
import pytest

from gpt.metrics import Metrics
from train.runs.checkpoint import Checkpoints, NonFiniteError
from train.watch import interval as module
from train.watch.interval import AHEAD, Interval
from train.watch.report import Report

Pair = tuple[float, float]
RATES = lambda rate: {"tokens": 10 * rate}


def metrics(**pairs: Pair) -> Metrics:
    return {name: (jnp.float32(a), jnp.float32(b)) for name, (a, b) in pairs.items()}


@pytest.fixture
def report() -> Mock:
    return create_autospec(Report, instance=True)


@pytest.fixture
def interval(report: Mock) -> Iterator[Interval]:
    checkpoints = create_autospec(Checkpoints, instance=True, newest=None)
    made = Interval(report, checkpoints, 0)
    yield made
    made.close()


def lines(report: Mock, split: str) -> list[tuple]:
    calls = [call.args for call in report.record.call_args_list]
    return [(step, *rest) for step, kind, *rest in calls if kind == split]


def test_a_line_is_of_all_steps_since_the_line_before(
    interval: Interval, report: Mock
) -> None:
    """Rows halt in one step of three; the rate of learning is that of the last."""
    for step in range(1, 7):
        halted = 4.0 if step % 3 == 0 else 0.0
        one = metrics(
            loss=(step * 2.0, 2.0), accuracy=(halted / 2, halted), lr=(step, 1.0)
        )
        interval.flush()
        interval.add(step, one, 8, 0.25)
        if step % 3 == 0:
            interval.end_line(RATES)
    interval.settle()
    (first, values, speed), (second, later, _) = lines(report, "train")
    assert (first, second) == (3, 6)
    assert values == {"loss": 2.0, "accuracy": 0.5, "lr": 3.0}
    assert later == {"loss": 5.0, "accuracy": 0.5, "lr": 6.0}
    assert speed["tokens"] == 10 * speed["examples_per_second"]
    assert speed["data_wait_seconds"] == 0.75


def test_metrics_are_read_once_a_line(
    interval: Interval, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the host is only so far ahead of the devices."""
    reads, waits = [], []
    read, wait = module.averages, module.jax.block_until_ready
    monkeypatch.setattr(module, "averages", lambda m: (reads.append(m), read(m))[1])
    for step in range(1, 21):
        interval.add(step, metrics(loss=(1.0, 1.0)), 8, 0.0)
    monkeypatch.setattr(
        module.jax, "block_until_ready", lambda m: (waits.append(m), wait(m))[1]
    )
    latest = metrics(loss=(1.0, 1.0))
    interval.add(21, latest, 8, 0.0)
    assert (len(reads), len(waits)) == (0, 1)
    assert waits[0] is not latest
    assert len(interval._running) == AHEAD
    interval.end_line(RATES)
    interval.flush()
    assert len(reads) == 1


def test_the_speed_is_that_of_the_steps_where_dispatch_waits(
    interval: Interval, report: Mock
) -> None:
    """A CPU may compute a step before its dispatch returns, as if it slept here.

    The line of a step is then read after the next step, and that of the last at once.
    """
    for step in range(1, 6):
        time.sleep(0.1)
        interval.flush()
        interval.add(step, metrics(loss=(1.0, 1.0)), 100, 0.0)
        interval.end_line(RATES)
    interval.settle()
    rates = [speed["examples_per_second"] for _, _, speed in lines(report, "train")]
    assert len(rates) == 5
    assert max(rates) < 2000, rates


def test_other_work_does_not_count(interval: Interval, report: Mock) -> None:
    interval.add(1, metrics(loss=(1.0, 1.0)), 100, 0.0)
    with interval.pause("save"):
        time.sleep(1.0)
    interval.add(2, metrics(loss=(1.0, 1.0)), 100, 0.0)
    interval.end_line(RATES)
    interval.settle()
    ((step, values),) = lines(report, "time")
    assert step == 1
    assert 1.0 <= values["save_seconds"] < 5.0
    ((_, _, speed),) = lines(report, "train")
    assert speed["examples_per_second"] > 200 / 1.0


def test_nothing_is_saved_of_steps_that_are_not_finite(interval: Interval) -> None:
    """In the middle of a line too."""
    interval.add(1, metrics(loss=(float("nan"), 1.0)), 8, 0.0)
    interval.add(2, metrics(loss=(1.0, 1.0)), 8, 0.0)
    with (
        pytest.raises(NonFiniteError, match="got loss = nan at step 2"),
        interval.pause("save"),
    ):
        pytest.fail("saved")
