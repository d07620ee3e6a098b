"""Detect the device, the processor and the versions, and pin a process to a core.

Imports only the standard library: `hold` must run before JAX and PyTorch are imported.
"""

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal

Kind = Literal["cpu", "gpu"]
Precision = Literal["float32", "bfloat16"]

RESULTS = Path(__file__).parent / "results"


def detect() -> Kind:
    """Return `gpu` if an NVIDIA driver is loaded, else `cpu`."""
    return "gpu" if Path("/dev/nvidiactl").exists() else "cpu"


def hold(kind: Kind, core: int | None) -> int | None:
    """Pin this process to a core, and return it; None if it is not pinned.

    Args:
        kind: on a CPU everything shares one core and one thread; on a GPU JAX and
            PyTorch share the memory.
        core: the core to pin to; None for the last one allowed.
    """
    assert not {"jax", "torch"} & sys.modules.keys(), "they have read their settings"
    if kind == "gpu":
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        return None
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["OMP_NUM_THREADS"] = "1"
    if not hasattr(os, "sched_setaffinity"):  # macOS
        return None
    core = max(os.sched_getaffinity(0)) if core is None else core
    os.sched_setaffinity(0, {core})
    return core


def cpu_model() -> str:
    """Return the processor's name."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    found = dict(re.findall(r"^(model name|model)\s*:\s*(.+)$", text, re.MULTILINE))
    name = found.get("model name", platform.processor())
    return f"{name} (model {found['model']})" if "model" in found else name


def versions(*more: str) -> dict[str, str]:
    """Return versions of Python and of the measured packages that are installed."""
    installed = {found.name: found.version for found in distributions()}
    names = ("jax", "jaxlib", "equinox", "optax", "torch", *more)
    found = {name: installed[name] for name in names if name in installed}
    return {"python": platform.python_version(), **found}


def commit(checkout: Path) -> str:
    """Return the commit of a checkout; empty if git fails."""
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
