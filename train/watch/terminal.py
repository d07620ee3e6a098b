"""The output of a run: lines, and on a terminal a progress bar below them.

Only the first process prints. Without a terminal there is no bar; long tasks print
their progress now and then instead.
"""

import shutil
import sys
import time
from collections.abc import Callable, Sequence

import jax
from tqdm import tqdm

from train.runs.metrics_file import without_split
from train.watch.metrics import readable
from train.watch.speed import Values

OFTEN, SELDOM = 0.1, 30.0
"""Least seconds between two drawings of the bar, and between two lines instead."""

BAR = 8
"""Characters reserved for the bar itself."""


def clock(seconds: float) -> str:
    """Return minutes and seconds, with hours if there are any."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def fitting(parts: Sequence[str], width: int) -> str:
    """Join the first parts that fit into the width."""
    line = ""
    for part in parts:
        longer = f"{line}  {part}" if line else part[:width]
        if len(longer) > width:
            break
        line = longer
    return line


class Terminal:
    """A tracker that prints. Also prints text and the progress of long tasks.

    Attributes:
        total: steps of the run.
    """

    def __init__(self, total: int = 0):
        self._main = jax.process_index() == 0
        self._is_terminal = self._main and sys.stdout.isatty()
        self._bar: tqdm | None = None
        self._drawn = 0.0
        self.total, self._latest = total, list[str]()
        self._first: tuple[int, float] | None = None

    def say(self, text: str) -> None:
        """Print lines, in place of the bar if there is one."""
        if self._bar is not None:
            self._bar.clear()  # the next progress draws it again, below
            self._drawn = 0.0
        if self._main:
            print(text, flush=True)

    def log(self, numbers: Values, step: int) -> None:
        """Print a line of numbers, but for the seconds without training."""
        split, values = without_split(numbers)
        if split == "time":
            return
        left = self._left(step) if split == "train" else ""
        self._print([f"{split} {step}/{self.total}", *readable(values)], left)
        if split == "train":
            ends = ("loss", "accuracy", "per_second")
            firsts = [next((n for n in values if n.endswith(e)), "") for e in ends]
            self._latest = readable({name: values[name] for name in firsts if name})

    def progress(self, step: int) -> None:
        """Draw the bar of training, at `step`."""
        if self._first is None:  # later steps are timed, without compiling
            self._first = step, time.perf_counter()
        left = self._left(step)
        parts = [f"{step:,}/{self.total:,}", *([left] if left else []), *self._latest]
        self._draw(parts, step, self.total)

    def task(self, what: str, total: int = 0, unit: str = "") -> Callable[[int], None]:
        """Show a long task, and return a function to call with its progress.

        Args:
            what: name of the task.
            total: its length, in units; 0 if unknown.
            unit: name of the units.
        """
        begin = printed = time.monotonic()
        self._drawn = 0.0  # draw a new task at once

        def tick(done: int = 0) -> None:
            nonlocal printed
            now = time.monotonic()
            parts = [f"{what} {done:,}/{total:,} {unit}" if total else what]
            if done:
                parts.append(f"{clock((now - begin) / done * (total - done))} left")
            self._draw(parts, done, total)
            if not self._is_terminal and now - printed >= SELDOM:
                printed = now
                self._print(parts)

        tick()
        return tick

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _left(self, step: int) -> str:
        """Return the estimated time left; empty at the first step and at the last."""
        if self._first is None or not self._first[0] < step < self.total:
            return ""
        each = (time.perf_counter() - self._first[1]) / (step - self._first[0])
        return f"{clock(each * (self.total - step))} left"

    def _print(self, parts: Sequence[str], left: str = "") -> None:
        """Print parts in a line: those that fit, or without a terminal all."""
        if self._is_terminal:
            self.say(fitting(parts, self._width))
        else:
            first = f"{parts[0]} ({left})" if left else parts[0]
            self.say("  ".join([first, *parts[1:]]))

    def _draw(self, parts: Sequence[str], done: int, total: int) -> None:
        """Draw the bar, after the parts that fit, unless it was drawn just now."""
        now = time.monotonic()
        if not self._is_terminal or now - self._drawn < OFTEN:
            return
        self._drawn = now
        if self._bar is None:
            self._bar = tqdm(
                file=sys.stdout, dynamic_ncols=True, leave=False, bar_format="{desc}"
            )
        self._bar.bar_format = "{desc}  {bar}" if total else "{desc}"
        self._bar.n, self._bar.total = done, total
        self._bar.set_description_str(fitting(parts, self._width - BAR))

    @property
    def _width(self) -> int:
        return shutil.get_terminal_size().columns
