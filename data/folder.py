"""Making a dataset: a folder that appears whole or not at all, and a parallel map."""

import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from configs import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def check_vacant(out: Path) -> None:
    """Raise `UserError` if `out` is a file or a folder with something in it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"The output must be a new or empty folder: {out} exists and is not. "
            "Remove it or choose another `--out`."
        )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes `out` if no error stops the writing.

    Raises:
        UserError: if `out` is not vacant.
    """
    check_vacant(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}"
    unfinished.mkdir()
    try:
        yield unfinished
        check_vacant(out)
        if out.exists():
            out.rmdir()
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Result]:
    """Give `function` of each item, in order; items are taken as they are needed.

    Args:
        function: that can be pickled, unless there is one process.
        items: that can be pickled.
        processes: to compute in; 1 computes here.
    """
    if processes == 1:
        yield from map(function, items)
        return
    # Not forked: a training run, which may have JAX's threads, builds datasets as well.
    with get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(function, items)
