"""Compiling where it can be watched, and left: in a thread of its own.

A process that ends does not wait for this thread (`cli.clean_exit`).
"""

import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax

from train.watch.screen import Screen


def compiled(
    lowered: Any, what: str, screen: Screen, stop: Callable[[], bool] = lambda: False
) -> Any:
    """The compiled program; None if it was told to stop meanwhile.

    Args:
        lowered: what to compile.
        what: it is, in print.
        screen: shows for how long it has been going on.
        stop: whether to stop now.
    """
    found: list[Any] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(lowered.compile())
        except BaseException as error:
            failed.append(error)

    begin, tick = time.perf_counter(), screen.task(f"compiling {what}")
    thread = threading.Thread(target=work, name="compiling", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        tick(0)
        if jax.process_count() == 1 and stop():  # several can only stop together
            return None
    if failed:
        raise failed[0]
    screen.say(f"compiled {what} in {time.perf_counter() - begin:.1f} s")
    return found[0]


class Watched:
    """A step that is compiled when it is first needed, for one shape of its input.

    Attributes:
        screen: shows what goes on.
    """

    def __init__(self, step: Any, what: str, screen: Screen):
        self._step, self._what, self.screen = step, what, screen
        self._program: Any = None

    def ready(self, *inputs: Any, stop: Callable[[], bool]) -> bool:
        """Compile it if it is not; False if it was told to stop meanwhile."""
        if self._program is None:
            with warnings.catch_warnings(action="ignore"):
                lowered = self._step.lower(*inputs)
            self._program = compiled(lowered, self._what, self.screen, stop)
        return self._program is not None

    def __call__(self, *inputs: Any) -> Any:
        """What the step gives, once it is ready."""
        return self._program(*inputs)
