"""The right to train in a run directory, which one process has at a time.

On a disk the system keeps it, and takes it back when the process ends, however it ends.
An object store has no locks: there the holder writes an object again every few seconds,
and who finds one that is written no more takes it over.
"""

import fcntl
import os
import socket
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from etils import epath

from configs import UserError
from data.storage import AnyPath, create, exists, read_text, store_errors, write_whole
from train.devices import end_others
from train.runs.periodic import Periodic

BEAT = 5.0
"""Seconds after which the holder of a lock in a store writes it again."""

LEASE = 30.0
"""Seconds without that after which it is free."""

LONG_AGO = 120.0
"""Age in seconds, by two clocks that may differ, of a lock that is surely free."""


@runtime_checkable
class Lock(Protocol):
    """A lock that is held."""

    def close(self) -> None:
        """Let go of it."""


def hold(path: AnyPath) -> Lock:
    """The lock, held by this process.

    Raises:
        UserError: if another process holds it.
        OSError: if it cannot be written.
    """
    return FileLock(path) if isinstance(path, Path) else StoreLock(path)


def _holder() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _in_use(path: AnyPath, holder: str) -> UserError:
    return UserError(
        f"One process at a time may train in a run directory: `{path.parent}` is in "
        f"use by {holder or 'another process'}. Wait for it, stop it, or choose "
        "another `--config.run-dir`."
    )


class FileLock:
    """A lock on a disk."""

    def __init__(self, path: Path):
        self._file = path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise _in_use(path, holder) from None
        self._file.truncate(0)
        self._file.write(f"{_holder()}\n")
        self._file.flush()

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


class StoreLock:
    """A lock in an object store."""

    def __init__(self, path: epath.Path):
        self._path, self._beats = path, 0
        self._mine = f"{_holder()}\n{uuid.uuid4().hex}\n"
        while not create(path, self._mine):
            wait_until_free(path)
            path.unlink(missing_ok=True)
        self._thread = Periodic(self._beat, BEAT)

    def _beat(self) -> None:
        """Write the object again, or end if another process has taken it over."""
        with suppress(OSError):  # the network may come back
            found = read_text(self._path) if exists(self._path) else self._mine
            if not found.startswith(self._mine):
                self._end(found.partition("\n")[0])
            self._beats += 1
            write_whole(self._path, f"{self._mine}{self._beats}\n")

    def _end(self, holder: str) -> None:
        message = (
            f"The lock of a run must be written every {LEASE:.0f} seconds: this "
            f"process could not, and {holder} trains in `{self._path.parent}` now. "
            "Leave it to that."
        )
        print(f"error: {message}", file=sys.stderr, flush=True)
        end_others(message)
        os._exit(1)

    def close(self) -> None:
        """Let go of it."""
        self._thread.close()
        with suppress(OSError), store_errors():
            if read_text(self._path).startswith(self._mine):
                self._path.unlink(missing_ok=True)


def wait_until_free(path: epath.Path) -> None:
    """Return when the holder of a lock in a store has ended.

    Raises:
        UserError: if it has not.
    """
    try:
        with store_errors():
            first, written = read_text(path), path.stat().mtime or 0
            holder = first.partition("\n")[0]
            if time.time() - written > LONG_AGO:
                return
            print(
                f"`{path.parent}` was in use by {holder} just now: waiting {LEASE:.0f} "
                "seconds for a sign of life.",
                flush=True,
            )
            end = time.monotonic() + LEASE
            while time.monotonic() < end:
                time.sleep(min(BEAT, LEASE) / 2)
                if read_text(path) != first:
                    raise _in_use(path, holder)
    except FileNotFoundError:
        pass  # it has just ended
