"""Start JAX, coordinate the processes of a run, and handle signals."""

import atexit
import itertools
import os
import re
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

from configs import MeshConfig, RunConfig, UserError, first_line, require
from data.storage import open_path

DAY = 24 * 3600 * 1000
"""A day in milliseconds, the unit of JAX's coordination service."""

SILENCE = 30
"""Seconds without a heartbeat after which a process counts as dead and JAX ends the
others (JAX's default: 100)."""

LOST = re.compile(
    "Connection (closed|reset|refused)|remote process exited|heartbeat|task died"
    "|[Bb]arrier|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED"
)
"""In errors of gloo, NCCL and JAX's coordination service if a process is gone."""

_CALLS = itertools.count()
"""Numbers the calls of `first_process_does`."""

ECHO = 0.5
"""Seconds in which a repeated signal counts as the same one: launchers forward a Ctrl-C
that the terminal has already sent to their children."""


def start(mesh: MeshConfig, run: RunConfig) -> None:
    """Join the other processes and set the compilation cache, as configured.

    Raises:
        UserError: if the other processes or the devices are unavailable.
    """
    if mesh.distributed and not jax.distributed.is_initialized():
        _join(mesh)
    _keep_programs(run.compilation_cache, backend())


def backend() -> str:
    """Return the kind of the devices: `cpu`, `gpu` or `tpu`.

    Raises:
        UserError: if there are none, or JAX does not compile.
    """
    settings: Any = jax.config
    require(
        not settings.jax_disable_jit,
        "Steps are compiled, so JAX_DISABLE_JIT must not be set: got "
        f"{os.environ.get('JAX_DISABLE_JIT', 'True')}. Unset it.",
    )
    try:
        return jax.default_backend()
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"No devices found for JAX_PLATFORMS={settings.jax_platforms or ''} "
            f"({first_line(error)}). Check it and the installed extra (`cuda`, `tpu`), "
            "or use JAX_PLATFORMS=cpu."
        ) from error


def _join(mesh: MeshConfig) -> None:
    # It handles SIGTERM, which ends a process at once until `Interrupt.listen`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            mesh.coordinator or None,
            mesh.processes,
            mesh.process,
            heartbeat_timeout_seconds=SILENCE,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "Could not connect to the other processes of the run "
            f"({first_line(error)}). Without a cluster manager, set "
            "`--config.mesh.coordinator HOST:PORT`, `--config.mesh.processes N` and "
            "`--config.mesh.process I`."
        ) from error
    over = threading.Event()
    watch = threading.Thread(target=_end_with_others, args=(over,), daemon=True)
    watch.start()
    atexit.register(lambda: (over.set(), watch.join(5.0)))


def _keep_programs(folder: str | None, backend: str) -> None:
    """Cache compiled programs; `JAX_COMPILATION_CACHE_DIR` overrides `folder`."""
    if folder is None or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    path = open_path(os.path.expanduser(folder))
    if str(path).startswith("~"):
        return  # this user has no home directory
    if backend == "cpu":
        path = path / f"cpu-{socket.gethostname()}"  # programs are for this processor
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _coordination() -> Any:
    """Return JAX's state of several processes; with one, its `client` is None."""
    from jax._src import distributed  # no public API

    return distributed.global_state


def _end_with_others(over: threading.Event) -> None:
    """End this process when another one reports an error, with its exit status."""
    while not over.wait(1.0):
        with suppress(Exception):  # no such key yet
            report = _coordination().client.key_value_try_get("train/ended")
            status, _, message = report.partition(" ")
            if message.startswith(f"Process {jax.process_index()} "):
                return  # it has printed its error
            print(f"error: {message}", file=sys.stderr, flush=True)
            _let_others_see()
            os._exit(int(status))


def _let_others_see() -> None:
    """Wait, in the process that hosts the service, until the others have polled it."""
    if jax.process_index() == 0:
        time.sleep(3.0)


def end_others(message: str, status: int) -> bool:
    """End the other processes of this run with a message; return if there are any."""
    client = _coordination().client
    if client is None or jax.process_count() == 1:
        return False
    report = f"Process {jax.process_index()} of this run has ended: {message}"
    try:
        client.key_value_set("train/ended", f"{status} {report}")
        _let_others_see()
    except Exception:
        time.sleep(5.0)  # another process was first, and is about to end this one
    return True


def is_peer_lost(error: BaseException | None) -> bool:
    """Return True if an error was caused by the loss of another process of the run."""
    if error is None or _coordination().client is None:
        return False
    runtime = isinstance(error, jax.errors.JaxRuntimeError)
    return bool(runtime and LOST.search(str(error))) or is_peer_lost(error.__cause__)


def first_process_does(action: Callable[[], None]) -> None:
    """Run `action` in the first process while the others wait, for up to a day.

    Collective: all processes must call it the same number of times.

    Raises:
        UserError: if `action` failed in the first process.
    """
    if jax.process_count() == 1:
        action()
        return
    client, key = _coordination().client, f"train/done/{next(_CALLS)}"
    if jax.process_index() == 0:
        action()  # if it fails, all processes end
        client.key_value_set(key, "done")
    else:
        client.blocking_key_value_get(key, DAY)


def all_agree(flag: bool) -> bool:
    """True if `flag` is true on every process. Collective."""
    if jax.process_count() == 1:
        return flag
    return bool(np.all(multihost_utils.process_allgather(np.array(flag))))


class Interrupt:
    """Records a signal to stop, sent to this or to any other process of the run.

    SIGTERM, SIGINT (Ctrl-C) and SIGHUP stop the run. A second signal ends the process
    at once: a save under way is lost, earlier checkpoints are not.

    With several processes JAX handles SIGTERM (all processes agree on a step), and the
    other signals are forwarded as SIGTERM.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0
        self._calls = 0
        self._several = jax.process_count() > 1
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Install the handlers. A no-op if they are installed."""
        if self._before:
            return
        numbers = [signal.SIGINT, signal.SIGHUP]
        if not self._several:
            numbers.append(signal.SIGTERM)
        elif _coordination().preemption_sync_manager is None:
            jax.config.update("jax_enable_preemption_service", True)
            _coordination().initialize_preemption_sync_manager()
        self._before = {name: signal.signal(name, self._notice) for name in numbers}

    def _notice(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), now
        elif now - self._since > ECHO:
            os._exit(128 + number)  # cleaning up would wait for a save
        else:
            return
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def wanted(self) -> bool:
        """Return whether to stop now; equal on all processes.

        Collective: all processes must call it the same number of times.
        """
        self._calls += 1
        if not self._several:
            return self.signal is not None
        return bool(multihost_utils.reached_preemption_sync_point(self._calls))

    @property
    def status(self) -> int:
        """The exit status of a process ended by the signal."""
        return 128 + int(self.signal or signal.SIGTERM)

    def close(self) -> None:
        """Restore the previous handlers."""
        for name, handler in self._before.items():
            signal.signal(name, handler)
