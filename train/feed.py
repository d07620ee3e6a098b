"""From datasets to the devices: what is missing is made, batches come ahead."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from configs import Piecewise, require
from data.build import prepare
from data.storage import is_remote, open_path
from train.devices import first_process_does
from train.mesh import global_batch
from train.phases import Phase

T = TypeVar("T")


def prepare_missing(folder: str, build: Any) -> None:
    """Make the dataset in `folder` if it is missing and a build is configured.

    The first process makes it, the others wait; all learn whether that went well.

    Raises:
        ValueError: if it cannot be made.
    """
    path = open_path(folder)
    if is_remote(path):
        return  # it is copied when it is opened

    def make() -> None:
        if not path.exists():
            print(f"No dataset at `{path}`: making it.", flush=True)
            prepare(build, Path(folder), exist_ok=True)

    require(
        build is not None or path.exists(),
        f"A dataset must be there: there is no `{path}`. Check the path, or make it "
        "with `python -m data.prepare`: by itself only that of the preset is made, or "
        "one whose `--config.data.build` is given too.",
    )
    if build is not None:
        first_process_does(make)


def train_input(
    batch: Callable[[int], PyTree[np.ndarray]],
    mesh: Mesh,
    phases: Piecewise[Phase],
    calls: int | None,
) -> Callable[[int], PyTree]:
    """A function from the step that a dispatch begins at to its global input.

    Args:
        batch: from a number to this process's rows of one batch.
        mesh: the devices.
        phases: of the steps.
        calls: updates of a dispatch; its input has axes `calls, supervision steps` in
            front. None: the input is one batch (an episode).
    """
    steps, leading = phases.at(0).step_config.supervision_steps, 2 if calls else 0
    places = phases.map(
        lambda phase: global_batch(mesh, phase.step_config.batch_size, leading)
    )

    def stacked(first: int, calls: int) -> PyTree:
        parts = [batch(first * steps + i) for i in range(calls * steps)]
        stack = lambda *a: np.stack(a).reshape(calls, steps, *a[0].shape)
        return jax.tree.map(stack, *parts)

    return lambda first: places.at(first)(
        stacked(first, calls) if calls else batch(first)
    )


@dataclass(frozen=True, kw_only=True)
class Split:
    """Examples to evaluate, in global batches of equal size; the last may be padded."""

    name: str
    """Stands in front of the names of its metrics."""

    examples: int
    batches: int

    batch: Callable[[int], PyTree]
    """From a number below `batches` to a global batch; called in a thread."""


class Prefetch(Generic[T]):
    """Iterates over `make(item)` for each of `items`, keeping up to `depth` ready.

    A background thread makes them; its errors are raised where the batch is asked for.
    To be used as a context manager, which ends the thread.

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
        """The next batch, in the order of the items."""
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
