"""SIGTERM and Ctrl-C end a run at the next step, after a checkpoint."""

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Interrupt:
    """Notices a wish to stop, of this process or of any other of the run.

    With several processes JAX's own handler watches for SIGTERM (it makes all processes
    agree on a step), and Ctrl-C is passed on as one.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._several = jax.process_count() > 1
        wanted = [signal.SIGINT] if self._several else [signal.SIGINT, signal.SIGTERM]
        self._before = {name: signal.signal(name, self._notice) for name in wanted}

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt  # a second time: at once
        self.signal = signal.Signals(number)
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def wanted(self, step: int) -> bool:
        """Whether to stop after `step`; the same answer in all processes."""
        if not self._several:
            return self.signal is not None
        return bool(multihost_utils.reached_preemption_sync_point(step))

    @property
    def status(self) -> int:
        """Exit status of a process ended by the signal."""
        return 128 + int(self.signal or signal.SIGTERM)

    def close(self) -> None:
        """Put the handlers from before back."""
        for name, handler in self._before.items():
            signal.signal(name, handler)
