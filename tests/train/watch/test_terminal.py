"""What a run prints: lines that fit, and one bar."""

import os
import pty
import re
import select
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests import runs
from tests.runs import ROOT
from train.watch import terminal
from train.watch.metrics import averages, readable
from train.watch.speed import Values
from train.watch.terminal import Terminal, clock, fitting


def test_clock() -> None:
    seconds = (-1.0, 0.0, 59.6, 61.0, 3599.0, 3600.0, 1e5)
    assert [clock(x) for x in seconds] == [
        "0:00",
        "0:00",
        "1:00",
        "1:01",
        "59:59",
        "1:00:00",
        "27:46:40",
    ]


@pytest.mark.parametrize("width", [1, 5, 10, 40, 80])
def test_a_line_has_whole_parts(width: int) -> None:
    parts = ["12/1000", "lm_loss 1.234", "accuracy 0.5", "457 examples/s"]
    line = fitting(parts, width)
    assert len(line) <= width
    whole = "  ".join(parts)
    assert whole.startswith(line)
    assert width < len(parts[0]) or line in ["  ".join(parts[:n]) for n in range(1, 5)]
    assert fitting([], width) == ""


def test_values_as_they_are_printed() -> None:
    values: Values = {
        "loss": 0.51239,
        "accuracy": None,
        "examples_per_second": 12.345,
        "mfu": 0.3124,
        "memory_bytes": 2.0**31,
        "memory_peak_bytes": 3 * 2.0**30,
        "data_wait_seconds": 0.0125,
        "score": 1.0,
        "lr": 1e-4,
    }
    assert readable(values) == [
        "loss 0.5124",
        "12.3 examples/s",
        "mfu 31.2%",
        "memory 2.00 (peak 3.00) GiB",
        "waited 0.013 s for data",
        "lr 0.0001",
    ]
    text: Values = {"examples_per_second": 10.0, "tokens_per_second": 10240.0}
    assert readable(text) == ["10,240 tokens/s"]


def test_an_average_of_nothing_is_none() -> None:
    metrics = {"loss": (3.0, 4.0), "accuracy": (0.0, 0.0)}
    assert averages(metrics) == {"loss": 0.75, "accuracy": None}


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    made = Terminal(10)
    made.progress(1)
    made.log({"train/loss": 0.5, "train/accuracy": None}, 2)
    made.log({"time/save_seconds": 1.5}, 2)
    made.log({"eval/loss": 0.25}, 2)
    out = capsys.readouterr().out
    assert re.fullmatch(
        r"train 2/10 \(0:0\d left\)  loss 0.5\neval 2/10  loss 0.25\n", out
    )


def test_progress_of_a_task_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Printed now and then, without a bar or a carriage return."""
    now = 100.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    made = Terminal(2)
    tick = made.task("evaluating", 8, "batches")
    for done in range(8):
        tick(done)
        now += 10.0
    made.progress(1)
    made.close()
    assert capsys.readouterr().out.splitlines() == [
        "evaluating 3/8 batches  0:50 left",
        "evaluating 6/8 batches  0:20 left",
    ]


# -- a terminal ------------------------------------------------------------------------

RUN = """
import time
from train.watch.terminal import Terminal
made = Terminal(5)
tick = made.task("evaluating", 3, "batches")
time.sleep(0.15)
tick(1)
numbers = {"train/lm_loss": 1.234, "train/accuracy": 0.543}
for step in range(1, 6):
    made.progress(step)
    made.log(numbers | {"train/examples_per_second": 457.0}, step)
    time.sleep(0.15)
made.close()
print("the end")
"""


def on_terminal(command: list[str], columns: int) -> str:
    """Return what a command writes to a terminal of this width."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={k: v for k, v in runs.environment().items() if k != "COLUMNS"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        close_fds=True,
    )
    os.close(theirs)
    text = b""
    while select.select([ours], [], [], 120)[0]:
        try:
            text += os.read(ours, 65536)
        except OSError:
            break
    os.close(ours)
    assert process.wait(60) == 0, text.decode()
    return text.decode()


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_nothing_is_wider_than_the_terminal(columns: int) -> None:
    """Neither the lines above the bar nor the bar itself."""
    text = on_terminal([sys.executable, "-c", RUN], columns)
    drawn = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", x) for x in re.split("[\r\n]+", text)]
    assert max(map(len, drawn)) <= columns
    assert "train 5/5" in text
    assert any("evaluating" in line for line in drawn)
    assert any(line.startswith("3/5  ") for line in drawn)
    assert ("accuracy 0.543" in text) == (columns > 39)
    assert drawn[-2].strip() == "the end"


@pytest.mark.slow
def test_a_run_on_a_narrow_terminal(tmp_path: Path) -> None:
    """Compiling, training and evaluating, each in a line of its own width."""
    settings: runs.Settings = {
        "data.paths": tmp_path / "data",
        "run-dir": tmp_path / "run",
        "data.build.train": 64,
        "data.build.test": 16,
        "data.build.augmentations": 0,
        "epochs": 8,
        "eval.epochs": 4,
        "run.log-every": 5,
    }
    words = [sys.executable, "-m", "train.trm", *runs.words("quickstart", settings)]
    text = on_terminal(words, 60)
    for part in ("compiling the train step", "evaluating 0/1", "eval 32/32", "lm_loss"):
        assert part in text
    lines = [line for line in re.split("[\r\n]+", text) if line.startswith("train ")]
    assert lines
    assert max(map(len, lines)) <= 60
