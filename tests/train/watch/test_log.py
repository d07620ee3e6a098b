"""The log of a run: lines of metrics, their speed, and pauses."""

import time
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import pytest

from gpt.metrics import Metrics
from train.runs.checkpoint import NonFiniteError
from train.watch import log as module
from train.watch.log import AHEAD, Log
from train.watch.speed import Values
from train.watch.terminal import Terminal

Pair = tuple[float, float]
RATES = lambda rate: {"tokens": 10 * rate}


def metrics(**pairs: Pair) -> Metrics:
    return {name: (jnp.float32(a), jnp.float32(b)) for name, (a, b) in pairs.items()}


class Rows:
    """A tracker that keeps what it gets."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, Values]] = []
        self.closed = False

    def log(self, numbers: Values, step: int) -> None:
        self.rows.append((step, numbers))

    def close(self) -> None:
        self.closed = True

    def of(self, split: str) -> list[tuple[int, Values]]:
        return [(s, row) for s, row in self.rows if next(iter(row)).startswith(split)]


@pytest.fixture
def tracker() -> Rows:
    return Rows()


@pytest.fixture
def log(tracker: Rows) -> Iterator[Log]:
    made = Log([tracker], Terminal(10), lambda: None, 0)
    yield made
    made.close()
    assert tracker.closed


def note(log: Log, step: int, one: Metrics, examples: int = 8, **more: Any) -> None:
    log.note(step, one, examples=examples, waited=0.25, **more)


def settle(log: Log) -> None:
    with log.pause("save"):
        pass


def test_a_line_is_of_all_steps_since_the_line_before(log: Log, tracker: Rows) -> None:
    """Rows halt in one step of three; the learning rate is the latest."""
    for step in range(1, 7):
        halted = 4.0 if step % 3 == 0 else 0.0
        one = metrics(
            lr=(step, 1.0), accuracy=(halted / 2, halted), loss=(step * 2.0, 2.0)
        )
        note(log, step, one, rates=RATES if step % 3 == 0 else None)
    settle(log)
    (first, values), (second, later) = tracker.of("train")
    assert (first, second) == (3, 6)
    names = [name.removeprefix("train/") for name in values]
    speed = ["examples_per_second", "tokens", "data_wait_seconds"]
    assert names == ["loss", "accuracy", *speed, "lr"]
    pick = lambda row: [row[f"train/{name}"] for name in ("loss", "accuracy", "lr")]
    assert pick(values) == [2.0, 0.5, 3.0]
    assert pick(later) == [5.0, 0.5, 6.0]
    assert values["train/tokens"] == 10 * (values["train/examples_per_second"] or 0)
    assert values["train/data_wait_seconds"] == 0.75


def test_metrics_are_read_once_a_line(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the host is at most `AHEAD` dispatches ahead of the devices."""
    reads, waits = [], []
    read, wait = module.averages, module.jax.block_until_ready
    monkeypatch.setattr(module, "averages", lambda m: (reads.append(m), read(m))[1])
    monkeypatch.setattr(
        module.jax, "block_until_ready", lambda m: (waits.append(m), wait(m))[1]
    )
    ones = [metrics(loss=(1.0, 1.0)) for _ in range(20)]
    for step, one in enumerate(ones, 1):
        note(log, step, one)
    assert reads == []
    assert [id(one) for one in waits] == [id(one) for one in ones[:-AHEAD]]
    note(log, 21, ones[0], rates=RATES)
    note(log, 22, ones[0])
    assert len(reads) == 1


def test_the_speed_is_that_of_the_steps_where_dispatch_waits(
    log: Log, tracker: Rows
) -> None:
    """A CPU may compute a step before its dispatch returns, as if it slept here.

    The line of a step is read after the next step, and the last line at once.
    """
    for step in range(1, 6):
        time.sleep(0.1)
        note(log, step, metrics(loss=(1.0, 1.0)), 100, rates=RATES)
    settle(log)
    rates = [row["train/examples_per_second"] or 0 for _, row in tracker.of("train")]
    assert len(rates) == 5
    assert max(rates) < 2000, rates


def test_a_pause_does_not_count(log: Log, tracker: Rows) -> None:
    note(log, 1, metrics(loss=(1.0, 1.0)), 100)
    with log.pause("save") as parts:
        time.sleep(1.0)
        parts["compile"] = 0.25
    note(log, 2, metrics(loss=(1.0, 1.0)), 100, rates=RATES)
    settle(log)
    step, seconds = tracker.of("time")[0]
    assert step == 1
    assert seconds["time/compile_seconds"] == 0.25
    assert 0.75 <= (seconds["time/save_seconds"] or 0) < 4.75
    ((_, row),) = tracker.of("train")
    assert (row["train/examples_per_second"] or 0) > 200


def test_nothing_is_saved_of_steps_that_are_not_finite(log: Log) -> None:
    """Before their line has ended, too."""
    note(log, 1, metrics(loss=(float("nan"), 1.0)))
    note(log, 2, metrics(loss=(1.0, 1.0)))
    with pytest.raises(NonFiniteError, match="loss = nan"), log.pause("save"):
        pytest.fail("saved")


def test_an_evaluation_must_be_finite(log: Log, tracker: Rows) -> None:
    with pytest.raises(NonFiniteError, match="loss = inf"):
        log.record(3, "eval", {"loss": float("inf"), "accuracy": None})
    assert tracker.rows == []
