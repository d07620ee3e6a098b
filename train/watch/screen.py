"""What a person sees of a run: lines, and on a terminal a bar below them.

Only the first process says anything. Without a terminal there is no bar, but what takes
long says now and then how far it is.
"""

import shutil
import sys
import time
from collections.abc import Callable, Sequence

import jax
from tqdm import tqdm

OFTEN, SELDOM = 0.1, 30.0
"""Least seconds between two drawings of the bar, and between two lines instead."""

BAR = 8
"""Characters that are left to the bar itself."""


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours if there are some."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def fitting(parts: Sequence[str], width: int) -> str:
    """A line of as many of the first parts as it has room for."""
    line = ""
    for part in parts:
        longer = f"{line}  {part}" if line else part[:width]
        if len(longer) > width:
            break
        line = longer
    return line


class Screen:
    """Lines, and the bar of what is under way."""

    def __init__(self) -> None:
        self._main = jax.process_index() == 0
        self._terminal = self._main and sys.stdout.isatty()
        self._bar: tqdm | None = None
        self._drawn = 0.0

    def say(self, text: str) -> None:
        """Print lines, in place of the bar if there is one."""
        if self._bar is not None:
            self._bar.clear()  # what is under way draws it again below
            self._drawn = 0.0
        if self._main:
            print(text, flush=True)

    def line(self, parts: Sequence[str], left: str = "") -> None:
        """Print parts in a line: on a terminal those that fit, else all.

        Args:
            parts: the first of them count most.
            left: the time left, for where no bar says it.
        """
        if self._terminal:
            self.say(fitting(parts, self._width))
        else:
            self.say("  ".join([parts[0] + left, *parts[1:]]))

    def draw(
        self, parts: Sequence[str], done: int = 0, total: int | None = None
    ) -> None:
        """Show what is under way, if there is a terminal and it is time to.

        Args:
            parts: what stands before the bar, as far as there is room.
            done: how far it is.
            total: how far it goes; None if nobody knows.
        """
        now = time.monotonic()
        if not self._terminal or now - self._drawn < OFTEN:
            return
        self._drawn = now
        if self._bar is None:
            self._bar = tqdm(
                file=sys.stdout, dynamic_ncols=True, leave=False, bar_format="{desc}"
            )
        bar = self._bar
        bar.bar_format = "{desc}  {bar}" if total else "{desc}"
        bar.n, bar.total = done, total
        room = self._width - (BAR if total else 1)
        bar.set_description_str(fitting(parts, room))

    def task(
        self, what: str, total: int | None = None, unit: str = ""
    ) -> Callable[[int], None]:
        """A function to call now and then while something takes long.

        Args:
            what: is done.
            total: how much there is to do; None if nobody knows.
            unit: of which.

        Returns:
            The function, of how much is done.
        """
        begin = told = time.monotonic()
        self._drawn = 0.0  # what is new is drawn at once

        def tick(done: int = 0) -> None:
            nonlocal told
            now = time.monotonic()
            parts = [what, clock(now - begin)]
            if total is not None:
                parts = [f"{what} {done:,}/{total:,} {unit}"]
                if done:
                    parts.append(f"{clock((now - begin) / done * (total - done))} left")
            self.draw(parts, done, total)
            if not self._terminal and now - told >= SELDOM:
                told = now
                self.line(parts)

        tick()
        return tick

    @property
    def _width(self) -> int:
        return shutil.get_terminal_size().columns

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
