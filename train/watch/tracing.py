"""A trace of some steps, by JAX's profiler: `--config.run.profile FIRST:COUNT`."""

import shutil
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import jax

from data.storage import AnyPath, upload


class Tracing:
    """Traces some steps once, in the first process, into a folder of the run.

    Args:
        steps: their numbers; none for no trace.
        folder: where the trace goes.
    """

    def __init__(self, steps: range, folder: AnyPath):
        here = jax.process_index() == 0
        self._steps = steps if here and can_trace() else range(0)
        self._folder = folder
        self._running, self._ended = False, False

    def starts(self, first: int, last: int) -> bool:
        """Whether to start it before the dispatch that makes these steps."""
        wanted = self._steps
        waits = bool(wanted) and not self._running and not self._ended
        return waits and first <= wanted[-1] and wanted[0] <= last

    def stops(self, step: int) -> bool:
        """Whether to stop it after this step."""
        return self._running and step >= self._steps[-1]

    def start(self) -> None:
        """Begin; to be called when no step is under way."""
        self._running = True
        folder = self._folder
        self._local = folder if isinstance(folder, Path) else Path(mkdtemp())
        jax.profiler.start_trace(self._local, profiler_options=options())

    def step(self, number: int) -> AbstractContextManager:
        """To be entered while a step is dispatched, which gives it its number."""
        if not self._running:
            return nullcontext()
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def stop(self) -> None:
        """Write the trace, if it is running; to be called when no step is."""
        if self._running:
            self._running, self._ended = False, True
            jax.profiler.stop_trace()
            if not isinstance(self._folder, Path):
                upload(self._local, self._folder)
                shutil.rmtree(self._local)


def several_gpu_hosts() -> bool:
    """Whether GPUs of several processes work together.

    Writing a trace of all their kernels takes minutes, in which the others give up
    waiting. Source: marin-community/marin, issue 5528.
    """
    return jax.process_count() > 1 and jax.default_backend() == "gpu"


def can_trace() -> bool:
    """Whether this JAX can trace what is here; else it warns."""
    possible = not several_gpu_hosts() or hasattr(options(), "device_tracer_level")
    if not possible:
        warnings.warn(
            "No trace is written: with GPUs of several processes it must leave out "
            f"the devices, and JAX {jax.__version__} cannot. Trace one process.",
            stacklevel=2,
        )
    return possible


def options() -> Any:
    """What is traced: devices and what JAX does on the host, not every Python call."""
    chosen = jax.profiler.ProfileOptions()
    chosen.python_tracer_level = 0
    if several_gpu_hosts() and hasattr(chosen, "device_tracer_level"):
        chosen.device_tracer_level = 0
    return chosen
