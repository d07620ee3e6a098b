"""The lock of a run directory: at most one process trains in it.

On a disk the system releases the lock when its process ends, however it ends. In an
object store the lock is an object, which remains if its process is killed.
"""

import fcntl
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from etils import epath

from configs import UserError
from data.storage import AnyPath, create, read_text, store_errors


def acquire(path: AnyPath) -> Callable[[], None]:
    """Take the lock and return the function that releases it.

    Raises:
        UserError: if another process holds it.
        OSError: if it cannot be written.
    """
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    owner = f"process {os.getpid()} on {socket.gethostname()} since {now}"
    if isinstance(path, Path):
        return _lock_file(path, owner)
    return _lock_object(path, owner)


def _lock_file(path: Path, owner: str) -> Callable[[], None]:
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise _in_use(path, holder, "Wait for it, stop it") from None
    file.truncate(0)
    file.write(f"{owner}\n")
    file.flush()
    return file.close


def _lock_object(path: epath.Path, owner: str) -> Callable[[], None]:
    if not create(path, owner):
        remedy = (
            "Wait for it, stop it, remove the lock if that process is dead "
            f"(`gcloud storage rm {path}`)"
        )
        raise _in_use(path, read_text(path), remedy)

    def release() -> None:
        with suppress(OSError), store_errors():
            if read_text(path) == owner:
                path.unlink(missing_ok=True)

    return release


def _in_use(path: AnyPath, holder: str, remedy: str) -> UserError:
    return UserError(
        f"The run directory `{path.parent}` is in use by "
        f"{holder or 'another process'}. {remedy}, or choose another "
        "`--config.run-dir`."
    )
