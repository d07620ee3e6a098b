"""What a measurement runs on, and how a process is held to one core of it.

Imports the standard library alone: `hold` must run before JAX or PyTorch is imported.
"""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

Kind = Literal["cpu", "gpu"]


def detect() -> Kind:
    """`gpu` if an NVIDIA driver is loaded, else `cpu`."""
    return "gpu" if Path("/dev/nvidiactl").exists() else "cpu"


def hold(kind: Kind, core: int | None) -> int | None:
    """Settle threads and memory of this process; returns the core it is pinned to.

    Args:
        kind: on a CPU everything shares one core and one thread; on a GPU JAX and
            PyTorch share the memory.
        core: the core to pin to; None for the last one allowed.
    """
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
    """The processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    family = re.search(r"^model\s*:\s*(\d+)$", text, re.MULTILINE)
    name = found[1] if found else platform.processor()
    return f"{name} (model {family[1]})" if family else name


def versions(*more: str) -> dict[str, str]:
    """Versions of Python and of the packages that are measured, where installed."""
    found = {"python": platform.python_version()}
    for package in ("jax", "jaxlib", "equinox", "optax", "torch", *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit(checkout: Path) -> str:
    """The commit of a checkout; empty if git does not tell."""
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def slug(name: str) -> str:
    """A device's name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
