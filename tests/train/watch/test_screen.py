"""What stands on the terminal: lines that fit, and one bar."""

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from train.watch.compiling import Watched, compiled

from tests import runs
from tests.runs import ROOT
from train.watch import screen
from train.watch.report import readable
from train.watch.screen import Screen, clock, fitting
from train.watch.speed import Values


def test_clock() -> None:
    said = [clock(seconds) for seconds in (-1.0, 0.0, 59.6, 61.0, 3599.0, 3600.0, 1e5)]
    assert said == ["0:00", "0:00", "1:00", "1:01", "59:59", "1:00:00", "27:46:40"]


@pytest.mark.parametrize("width", [1, 5, 10, 40, 80])
def test_only_whole_parts_stand_on_a_line(width: int) -> None:
    parts = ["12/1000", "lm_loss 1.234", "accuracy 0.5", "457 examples/s"]
    line = fitting(parts, width)
    assert len(line) <= width
    whole = "  ".join(parts)
    assert whole.startswith(line)
    assert width < len(parts[0]) or line in ["  ".join(parts[:n]) for n in range(1, 5)]
    assert fitting([], width) == ""


def test_values_for_a_person() -> None:
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


def test_without_a_terminal_long_work_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Now and then; no bar, no carriage return."""
    now = 100.0
    monkeypatch.setattr(screen.time, "monotonic", lambda: now)
    made = Screen()
    tick = made.task("evaluating", 8, "batches")
    for done in range(8):
        tick(done)
        now += 10.0
    made.draw(["nothing"], 1, 2)
    made.close()
    assert capsys.readouterr().out.splitlines() == [
        "evaluating 3/8 batches  0:50 left",
        "evaluating 6/8 batches  0:20 left",
    ]


# -- compiling -------------------------------------------------------------------------


class Slow:
    """What takes a while to compile, or fails."""

    def __init__(self, seconds: float = 0.0, error: Exception | None = None):
        self.seconds, self.error, self.times = seconds, error, 0

    def lower(self, *inputs: object) -> "Slow":
        return self

    def compile(self) -> "Slow":
        self.times += 1
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return self

    def __call__(self, *inputs: object) -> tuple[object, ...]:
        return inputs


def test_compiling_is_left_when_told_to(capsys: pytest.CaptureFixture[str]) -> None:
    begin = time.monotonic()
    assert compiled(Slow(30.0), "it", Screen(), lambda: True) is None
    assert time.monotonic() - begin < 10.0
    assert not Watched(Slow(30.0), "it", Screen()).ready(stop=lambda: True)
    assert capsys.readouterr().out == ""


def test_compiling_says_what_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    step = Slow()
    made = Watched(step, "the step", Screen())
    assert all(made.ready(1, stop=lambda: False) for _ in range(3))
    assert made(1, 2) == (1, 2)
    assert step.times == 1
    said = capsys.readouterr().out
    assert re.fullmatch(r"compiled the step in \d+\.\d s\n", said)
    with pytest.raises(MemoryError, match="too large"):
        compiled(Slow(error=MemoryError("too large")), "it", Screen())


# -- a terminal ------------------------------------------------------------------------

RUN = """
import time
from train.watch.screen import Screen
made = Screen()
tick = made.task("compiling the train step")
time.sleep(0.15)
tick()
for step in range(1, 6):
    parts = [f"{step}/5", "0:01 left", "lm_loss 1.234", "accuracy 0.543", "457 ex/s"]
    made.draw(parts, step, 5)
    made.line([f"train {step}/5", "lm_loss 1.234", "accuracy 0.543", "457 examples/s"])
    time.sleep(0.15)
made.close()
print("the end")
"""


def on_terminal(command: list[str], columns: int) -> str:
    """What a command writes to a terminal of this width."""
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
    said = b""
    while select.select([ours], [], [], 120)[0]:
        try:
            said += os.read(ours, 65536)
        except OSError:
            break
    os.close(ours)
    assert process.wait(60) == 0, said.decode()
    return said.decode()


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_nothing_is_wider_than_the_terminal(columns: int) -> None:
    """Parts of the line above the bar, and the bar itself."""
    said = on_terminal([sys.executable, "-c", RUN], columns)
    drawn = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", x) for x in re.split("[\r\n]+", said)]
    assert max(map(len, drawn)) <= columns
    assert "train 5/5" in said
    assert any("compiling the train" in line for line in drawn)
    assert any(line.startswith("3/5  ") for line in drawn)
    assert ("accuracy 0.543" in said) == (columns > 39)
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
    said = on_terminal(words, 60)
    for part in ("compiling the train step", "evaluating 0/1", "eval 32/32", "lm_loss"):
        assert part in said
    lines = [line for line in re.split("[\r\n]+", said) if line.startswith("train ")]
    assert lines
    assert max(map(len, lines)) <= 60
