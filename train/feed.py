"""Build a missing dataset, and prepare batches ahead of the devices."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from configs import require
from data.build import prepare
from data.storage import is_remote, open_path
from train.devices import first_process_does

T = TypeVar("T")


def prepare_missing(folder: str, build: Any) -> None:
    """Build the dataset in `folder` if it is missing and a build is configured.

    The first process builds it while the others wait.

    Raises:
        ValueError: if it cannot be built.
    """
    path = open_path(folder)
    if is_remote(path):
        return  # copied when opened

    def make() -> None:
        if not path.exists():
            print(f"No dataset at `{path}`: making it.", flush=True)
            prepare(build, Path(folder), exist_ok=True)

    require(
        build is not None or path.exists(),
        f"Dataset not found: `{path}`. Check the path, or make it with `python -m "
        "data.prepare`. Only the preset's own dataset, or one with a "
        "`--config.data.build`, is made automatically.",
    )
    if build is not None:
        first_process_does(make)


class Prefetch(Generic[T]):
    """Iterates over `make(item)` for each of `items`, keeping up to `depth` ready.

    A background thread makes them; `get` raises its errors. Leaving the context ends
    the thread.

    Attributes:
        waited: seconds that the last `get` took.
    """

    def __init__(self, make: Callable[[int], T], items: Iterable[int], depth: int):
        self._ready: queue.Queue[tuple[T | None, BaseException | None]]
        self._ready = queue.Queue(depth)
        self._stop = threading.Event()
        self.waited = 0.0
        self._thread = threading.Thread(
            target=self._run, args=(make, iter(items)), daemon=True
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
        """Return the next batch, in the order of the items."""
        begin = time.perf_counter()
        value, error = self._ready.get()
        self.waited = time.perf_counter() - begin
        if error is not None:
            raise error
        return value  # pyright: ignore[reportReturnType]

    def __enter__(self) -> "Prefetch[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
