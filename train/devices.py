"""Starting JAX, the other processes of a run, and signals."""

import atexit
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from configs import MeshConfig, RunConfig, UserError
from data.storage import open_path

DAY = 24 * 3600 * 1000
"""A day in milliseconds, the unit of JAX's coordination service."""

SILENCE = 30
"""Seconds without a sign of life after which a process counts as dead, and JAX ends the
others (its own default is 100)."""

_CALLS = itertools.count()
"""Numbers of what the first process does for all."""

ECHO = 0.5
"""Seconds in which a signal counts as the one before: launchers pass on a Ctrl-C that
the terminal has sent to their children already."""


def start(mesh: MeshConfig, run: RunConfig) -> None:
    """Join the other processes and set the compilation cache, as configured.

    Raises:
        UserError: if the other processes or the devices are unavailable.
    """
    if mesh.distributed and not jax.distributed.is_initialized():
        _join(mesh)
    try:
        backend = jax.default_backend()
    except RuntimeError as error:
        raise UserError(
            "The devices must be available: JAX found none "
            f"({str(error).splitlines()[0]}). Check `JAX_PLATFORMS` and the installed "
            "extra (`cuda`, `tpu`), or use JAX_PLATFORMS=cpu."
        ) from error
    _keep_programs(run.compilation_cache, backend)


def _join(mesh: MeshConfig) -> None:
    """Join the other processes of this run."""
    try:
        jax.distributed.initialize(
            mesh.coordinator or None,
            mesh.processes,
            mesh.process,
            heartbeat_timeout_seconds=SILENCE,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "The processes of a run must find each other: they did not "
            f"({str(error).splitlines()[0]}). Where no cluster tells them, give "
            "`--config.mesh.coordinator HOST:PORT`, `--config.mesh.processes N` and "
            "`--config.mesh.process I`."
        ) from error
    over = threading.Event()
    watch = threading.Thread(target=_end_with_others, args=(over,), daemon=True)
    watch.start()
    atexit.register(lambda: (over.set(), watch.join(5.0)))


def _keep_programs(folder: str | None, backend: str) -> None:
    """Keep compiled programs between runs, in a folder or where JAX is told to."""
    if folder is None or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    path = open_path(os.path.expanduser(folder))
    if backend == "cpu":
        path = path / f"cpu-{socket.gethostname()}"  # programs are for this processor
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _coordination() -> Any:
    """JAX's client of the service that all processes of a run share; None if alone."""
    from jax._src import distributed  # there is no public way to it

    return distributed.global_state.client


def _end_with_others(over: threading.Event) -> None:
    """End this process when another one says that it has ended with an error."""
    while not over.wait(1.0):
        with suppress(Exception):  # there is no such key
            message = _coordination().key_value_try_get("train/ended")
            print(f"error: {message}", file=sys.stderr, flush=True)
            _let_others_see()
            os._exit(2)


def _let_others_see() -> None:
    """Give the other processes the time to ask, in the one that answers them."""
    if jax.process_index() == 0:
        time.sleep(3.0)


def end_others(message: str) -> bool:
    """Tell the other processes of this run to end, and why; whether there are any."""
    client = _coordination()
    if client is None or jax.process_count() == 1:
        return False
    said = f"Process {jax.process_index()} of this run has ended: {message}"
    try:
        client.key_value_set("train/ended", said)
        _let_others_see()
    except Exception:
        time.sleep(5.0)  # another was first, and is about to end this process
    return True


def first_process_does(action: Callable[[], None]) -> None:
    """Have the first process do something, while the others wait, a day if need be.

    All of them must ask equally often: they agree on the number of a call.

    Raises:
        UserError: if it failed in the first process.
    """
    if jax.process_count() == 1:
        action()
        return
    client, key = _coordination(), f"train/done/{next(_CALLS)}"
    if jax.process_index() == 0:
        action()  # if it fails, all processes end
        client.key_value_set(key, "done")
    else:
        client.blocking_key_value_get(key, DAY)


def all_agree(flag: bool) -> bool:
    """Whether the flag is set in all processes; they must all ask."""
    if jax.process_count() == 1:
        return flag
    return bool(np.all(multihost_utils.process_allgather(np.array(flag))))


class Interrupt:
    """Notices a wish to stop, of this process or of any other of the run.

    SIGTERM, SIGINT (Ctrl-C) and SIGHUP mean so. A second one ends the process at once.
    (What is being saved then is lost; the checkpoints before it are not.)

    With several processes JAX's own handler watches for SIGTERM (it makes all processes
    agree on a step), and the others are passed on as one.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0
        self._calls = 0
        self._several = jax.process_count() > 1
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Notice signals from now on."""
        if self._before:
            return
        wanted = [signal.SIGINT, signal.SIGHUP]
        if not self._several:
            wanted.append(signal.SIGTERM)
        self._before = {name: signal.signal(name, self._notice) for name in wanted}

    def _notice(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), now
        elif now - self._since > ECHO:
            os._exit(128 + number)  # no clean-up: it would wait for a save
        else:
            return
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def wanted(self) -> bool:
        """Whether to stop now; the same answer in all processes.

        All of them must ask equally often: they agree on the number of a call.
        """
        self._calls += 1
        if not self._several:
            return self.signal is not None
        return bool(multihost_utils.reached_preemption_sync_point(self._calls))

    @property
    def status(self) -> int:
        """Exit status of a process ended by the signal."""
        return 128 + int(self.signal or signal.SIGTERM)

    def close(self) -> None:
        """Put the handlers from before back."""
        for name, handler in self._before.items():
            signal.signal(name, handler)
