"""Make a dataset: a folder that appears complete or not at all, and a parallel map.

A build writes into a hidden folder beside `out`, from which the complete content moves
to `out`. The build holds a lock in the hidden folder; the next build removes folders
whose lock is free.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from configs import UserError, require
from data.storage import require_outside_runs

BLOCK, BLOCKS = 4096, 64  # bytes, and blocks of a file that `fingerprint` reads

Item = TypeVar("Item")
Result = TypeVar("Result")


def check_vacant(out: Path) -> None:
    """Raise `UserError` unless `out` is a new or empty folder outside of runs."""
    require_local(out)
    require_outside_runs(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"The output must be a new or empty folder: {out} exists and is not. "
            "Remove it or choose another `--out`."
        )


def require_local(out: Path) -> None:
    """Raise `UserError` if `out` is the address of an object store."""
    require(
        not out.parts or not out.parts[0].endswith(":"),
        f"The output must be on this machine: got {out}. Make it here and copy it to "
        "the store.",
    )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write into, which becomes `out` if there is no error.

    Raises:
        UserError: if `out` is not vacant.
    """
    check_vacant(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out.parent)
    unfinished = out.parent / f".{out.name}.unfinished-{uuid.uuid4().hex[:8]}"
    unfinished.mkdir()
    try:
        with (unfinished / "lock").open("x") as lock:
            _try_lock(lock.fileno())
            content = unfinished / "content"  # made last: only now may others look
            content.mkdir()
            yield content
            check_vacant(out)
            if out.exists():
                out.rmdir()
            content.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Remove the unfinished folders of killed builds, on a file system with locks."""
    for content in parent.glob(".*.unfinished-*/content"):
        with suppress(OSError), content.with_name("lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(content.parent, ignore_errors=True)


@contextmanager
def only_maker(out: Path, wanted: str) -> Iterator[bool]:
    """Wait for the exclusive right to make `out`.

    Yields True if another process has just made it. The system frees the lock at the
    end of a process. On a file system without locks there is no waiting.

    Args:
        out: the folder to make.
        wanted: description of the content; equal for equal content.

    Raises:
        UserError: if another process is making `out` with other content.
    """
    require_local(out)
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
            try:
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n{wanted}")
                file.flush()
                yield waited and out.is_dir() and any(out.iterdir())
            finally:
                path.unlink(missing_ok=True)
            return


def _try_lock(file: int) -> bool:
    """Lock a file; return False if another process has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # no locks here
    return True


def say(text: str) -> None:
    """Print a line at once; a closed output does not stop the work."""
    try:
        print(text, flush=True)
    except OSError:
        # Else Python reports the error again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def visible(folder: Path, pattern: str) -> list[Path]:
    """Return the matching paths in `folder`, sorted, without hidden files and folders.

    (Notebooks, macOS and editors leave hidden copies.)
    """
    hidden = lambda path: any(
        part.startswith(".") for part in path.relative_to(folder).parts
    )
    return sorted(path for path in folder.glob(pattern) if not hidden(path))


def fingerprint(files: Sequence[Path]) -> str:
    """Return a hash of the names, the sizes and a sample of the content of files.

    The sample of a file is 64 evenly spread blocks of 4 kB, so that it takes
    milliseconds for any size. Files of other data differ, but a change between two
    blocks is not detected.
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
    """Yield `function` of each item, in order; items are read when they are needed.

    Args:
        function: picklable, unless there is one process.
        items: picklable items.
        processes: number of processes; 1: this process.
    """
    if processes == 1:
        yield from map(function, items)
        return
    # Not forked: a training run, which may have JAX's threads, also builds datasets.
    with _without_interrupts():
        pool = get_context("spawn").Pool(processes)
    with pool:
        yield from pool.imap(function, items)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C, also in the processes started here.

    (It reaches all processes of a terminal, and each would print a traceback.)
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
