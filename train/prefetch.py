"""Batches made ahead of the devices by one background thread."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Iterates over `make(item)` for each of `items`, keeping up to `depth` ready.

    An error in the thread is raised where its batch is asked for. To be used as a
    context manager, which ends the thread.
    """

    def __init__(self, make: Callable[[int], T], items: Iterator[int], depth: int):
        self._ready: queue.Queue[tuple[T | None, BaseException | None]]
        self._ready = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(make, items), daemon=True
        )
        self._thread.start()

    def _run(self, make: Callable[[int], T], items: Iterator[int]) -> None:
        try:
            for item in items:
                if not self._put((make(item), None)):
                    return
        except BaseException as error:
            self._put((None, error))

    def _put(self, entry: tuple[T | None, BaseException | None]) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def get(self) -> T:
        """The next batch, in the order of the items."""
        value, error = self._ready.get()
        if error is not None:
            raise error
        return value  # pyright: ignore[reportReturnType]

    def __enter__(self) -> "Prefetch[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
