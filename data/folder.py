"""Making a dataset: a folder that appears whole or not at all, and a parallel map."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from configs import UserError, require

BLOCK, BLOCKS = 4096, 64  # bytes, and blocks of a file that `fingerprint` reads

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


def fingerprint(files: Sequence[Path]) -> str:
    """A word for the content of some files, from a sample of it.

    It comes from their names and sizes and of each file 64 blocks of 4 kB, evenly
    spread, so that it takes milliseconds whatever their size: files made anew from
    other data differ, but a change between two blocks goes unnoticed.
    """
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for block in range(BLOCKS):
                file.seek(max(size - BLOCK, 0) * block // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return f"sampled-{digest.hexdigest()}"


def require_memory(needed: int, what: str, advice: str) -> None:
    """Raise `UserError` unless `needed` bytes are less than the machine's memory."""
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    require(
        needed < have,
        f"{what} must fit into memory: they need {needed:,} bytes, and this machine "
        f"has {have:,}. {advice}",
    )


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
