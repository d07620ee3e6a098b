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
    """Traces some steps once, in the first process, into a folder of the run.

    It warns if none of them will be made, unless the folder has a trace already.

    Args:
        steps: their numbers; none for no trace.
        folder: where the trace goes.
        made: numbers of the steps that this process will make.
    """

    def __init__(self, steps: range, folder: AnyPath, made: range):
        here = bool(steps) and jax.process_index() == 0
        possible = here and are_made(steps, made, folder) and can_trace()
        self._steps, self._folder = steps if possible else range(0), folder
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


def are_made(steps: range, made: range, folder: AnyPath) -> bool:
    """Whether some steps will be made; else it warns, if there is no trace of them."""
    found = range(max(steps[0], made.start), min(steps.stop, made.stop))
    if not found and not exists(folder):
        warnings.warn(
            f"No trace is written: of the steps {steps[0]} to {steps[-1]} none is made "
            f"from step {made.start - 1} to {made.stop - 1}. Ask for others with "
            "`--config.run.profile FIRST:COUNT`.",
            stacklevel=2,
        )
    return bool(found)


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
