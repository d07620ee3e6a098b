"""Making a dataset: a folder that appears whole or not at all, and a parallel map.

What a build writes stands in a hidden folder beside `out`, whose name says which
process of which machine writes it, until all is there.
"""

import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from configs import UserError, require

BLOCK, BLOCKS = 4096, 64  # bytes, and blocks of a file that `fingerprint` reads
UNFINISHED = re.compile(r"\..+\.unfinished-(.+)-(\d+)-[0-9a-f]{8}")

Item = TypeVar("Item")
Result = TypeVar("Result")


def check_vacant(out: Path) -> None:
    """Raise `UserError` if `out` is a file or a folder with something in it."""
    _require_local(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"The output must be a new or empty folder: {out} exists and is not. "
            "Remove it or choose another `--out`."
        )


def _require_local(out: Path) -> None:
    """Raise `UserError` if `out` was the address of an object store."""
    require(
        not out.parts or not out.parts[0].endswith(":"),
        f"The output must be a folder of this machine: got {out}. Make it here and "
        "copy it to the store.",
    )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` if no error stops the writing.

    Raises:
        UserError: if `out` is not vacant.
    """
    check_vacant(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(out.parent)
    maker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    unfinished = out.parent / f".{out.name}.unfinished-{maker}"
    unfinished.mkdir()
    try:
        yield unfinished
        check_vacant(out)
        if out.exists():
            out.rmdir()
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_unfinished(parent: Path) -> None:
    """Remove what builds of this machine that were killed have left in `parent`."""
    for folder in parent.glob(".*.unfinished-*"):
        name = UNFINISHED.fullmatch(folder.name)
        if name and name[1] == socket.gethostname() and not _is_alive(int(name[2])):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


@contextmanager
def only_maker(out: Path, wanted: str) -> Iterator[bool]:
    """The right to make `out`, which one process has at a time; others wait here.

    The system frees it when a process ends, however it ends. On a file system without
    locks nobody waits. What is given is whether another process has just made `out`.

    Args:
        out: the folder to make.
        wanted: what to make of it, in words.

    Raises:
        UserError: if another process is making something else of `out`.
    """
    _require_local(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    path, waited = out.parent / f".{out.name}.lock", False
    while True:
        with path.open("a+", encoding="utf-8") as file:
            while not _try_lock(file.fileno()):
                file.seek(0)
                maker, _, other = file.read().partition("\n")
                require(
                    other in ("", wanted),
                    f"A folder must be made by one command at a time: {maker} makes "
                    f"{out} from {other}, not from {wanted}. Choose another `--out`.",
                )
                if not waited:
                    say(f"waiting for {maker or 'another process'}, which makes {out}")
                waited = True
                time.sleep(0.2)
            mine = os.fstat(file.fileno())
            if not path.exists() or not os.path.samestat(path.stat(), mine):
                continue  # its holder has removed it, and another may have a new one
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n{wanted}")
            file.flush()
            try:
                yield waited and out.is_dir() and any(out.iterdir())
            finally:
                path.unlink(missing_ok=True)
            return


def _try_lock(file: int) -> bool:
    """Lock a file, and say whether no other process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # no locks here
    return True


def say(text: str) -> None:
    """Print a line at once, as long as somebody reads it: if not, the work goes on."""
    try:
        print(text, flush=True)
    except OSError:
        # Else Python complains once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    """`function` of each item, in order; items are taken as they are needed.

    Args:
        function: that can be pickled, unless there is one process.
        items: that can be pickled.
        processes: to compute in; 1 computes here.
    """
    if processes == 1:
        yield from map(function, items)
        return
    # Not forked: a training run, which may have JAX's threads, builds datasets as well.
    with _without_interrupts():
        pool = get_context("spawn").Pool(processes)
    with pool:
        yield from pool.imap(function, items)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A stretch in which Ctrl-C is ignored: processes started here never see it.

    (It reaches all processes of a terminal, and each would print a traceback.)
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
