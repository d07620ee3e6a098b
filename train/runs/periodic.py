"""What a thread does every so many seconds."""

import threading
from collections.abc import Callable


class Periodic:
    """Does something in a thread, again and again until it is closed.

    Args:
        action: what to do; it must not raise.
        seconds: between two times.
    """

    def __init__(self, action: Callable[[], None], seconds: float):
        self._action, self._seconds = action, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            self._action()

    def close(self) -> None:
        """End the thread, after what it is just doing."""
        self._over.set()
        self._thread.join()
