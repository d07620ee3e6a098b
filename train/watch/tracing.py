"""A trace of some steps, by JAX's profiler: `--config.run.profile FIRST:COUNT`."""

import shutil
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import jax

from data.storage import AnyPath, exists, upload


class Tracing:
    """A trace of some steps, made once, by the first process.

    Warns if no such step will be made, unless the folder has a trace already.

    Args:
        steps: numbers of the steps to trace; may be empty.
        folder: where the trace is written.
        made: numbers of the steps that this process will make.
    """

    def __init__(self, steps: range, folder: AnyPath, made: range):
        here = bool(steps) and jax.process_index() == 0
        possible = here and are_made(steps, made, folder) and can_trace()
        self._steps, self._folder = steps if possible else range(0), folder
        self._running, self._ended = False, False

    def starts(self, first: int, last: int) -> bool:
        """Return True if the trace starts before the dispatch of these steps."""
        wanted = self._steps
        waits = bool(wanted) and not self._running and not self._ended
        return waits and first <= wanted[-1] and wanted[0] <= last

    def stops(self, step: int) -> bool:
        """Return True if the trace stops after this step."""
        return self._running and step >= self._steps[-1]

    def start(self) -> None:
        """Start the trace; call it when no step is running."""
        self._running = True
        folder = self._folder
        self._local = folder if isinstance(folder, Path) else Path(mkdtemp())
        jax.profiler.start_trace(self._local, profiler_options=options())

    def step(self, number: int) -> AbstractContextManager:
        """Return a context that gives the step dispatched in it its number."""
        if not self._running:
            return nullcontext()
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def stop(self) -> None:
        """Write the trace, if it was started; call it when no step is running."""
        if self._running:
            self._running, self._ended = False, True
            jax.profiler.stop_trace()
            if not isinstance(self._folder, Path):
                upload(self._local, self._folder)
                shutil.rmtree(self._local)


def are_made(steps: range, made: range, folder: AnyPath) -> bool:
    """Return True if a step will be made; else warn, if there is no trace of it."""
    common = range(max(steps[0], made.start), min(steps.stop, made.stop))
    if not common and not exists(folder):
        warnings.warn(
            f"No trace is written: this run makes the steps {made.start} to "
            f"{made.stop - 1}, and `--config.run.profile` traces {steps[0]} to "
            f"{steps[-1]}.",
            stacklevel=2,
        )
    return bool(common)


def several_gpu_hosts() -> bool:
    """Return True if GPUs of several processes work together.

    Writing a trace of all their kernels takes minutes, and the other processes time
    out. Source: marin-community/marin, issue 5528.
    """
    return jax.process_count() > 1 and jax.default_backend() == "gpu"


def can_trace() -> bool:
    """Return True if this version of JAX can trace these devices; else warn."""
    possible = not several_gpu_hosts() or hasattr(options(), "device_tracer_level")
    if not possible:
        warnings.warn(
            f"No trace is written: JAX {jax.__version__} cannot leave out the GPUs, "
            "which it has to with several processes. Trace a run of one process.",
            stacklevel=2,
        )
    return possible


def options() -> Any:
    """Return options that trace devices and JAX on the host, not every Python call."""
    chosen = jax.profiler.ProfileOptions()
    chosen.python_tracer_level = 0
    if several_gpu_hosts() and hasattr(chosen, "device_tracer_level"):
        chosen.device_tracer_level = 0
    return chosen
