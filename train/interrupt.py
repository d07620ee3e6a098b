"""SIGTERM and Ctrl-C end a run at the next step, after a checkpoint."""

import os
import signal
import time
from types import FrameType

import jax
from jax.experimental import multihost_utils

ECHO = 0.5
"""Seconds in which a signal counts as the one before: launchers pass on a Ctrl-C that
the terminal has sent to their children already."""


class Interrupt:
    """Notices a wish to stop, of this process or of any other of the run.

    A second one ends the process at once. (What is being saved then is lost; the
    checkpoints before it are not.)

    With several processes JAX's own handler watches for SIGTERM (it makes all processes
    agree on a step), and Ctrl-C is passed on as one.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0
        self._calls = 0
        self._several = jax.process_count() > 1
        wanted = [signal.SIGINT] if self._several else [signal.SIGINT, signal.SIGTERM]
        self._before = {name: signal.signal(name, self._notice) for name in wanted}

    def _notice(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), now
        elif now - self._since > ECHO:
            os._exit(128 + number)  # no clean-up: it would wait for a save
        else:
            return
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def wanted(self) -> bool:
        """Whether to stop now; the same answer in all processes.

        To be called once a dispatch: the processes agree on the number of a call.
        """
        self._calls += 1
        if not self._several:
            return self.signal is not None
        return bool(multihost_utils.reached_preemption_sync_point(self._calls))

    @property
    def status(self) -> int:
        """Exit status of a process ended by the signal."""
        return 128 + int(self.signal or signal.SIGTERM)

    def close(self) -> None:
        """Put the handlers from before back."""
        for name, handler in self._before.items():
            signal.signal(name, handler)
