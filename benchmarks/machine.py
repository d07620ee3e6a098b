"""Detect the device, the processor and the versions, and pin a process to a core.

Imports only the standard library: `hold` must run before JAX and PyTorch are imported.
"""

import os
import platform
import re
import shlex
import site
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal

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


def start(
    command: str, checkout: Path, folder: Path, *, quiet: bool = False
) -> subprocess.Popen[bytes]:
    """Start a command of a checkout in a folder, with an empty home for its caches.

    Args:
        command: module and options; its run is `folder/run`.
        checkout: folder of the module.
        folder: working directory, with the folder `home`.
        quiet: drop its output.
    """
    words = [sys.executable, "-m", *shlex.split(command)]
    environment = os.environ | {
        "PYTHONPATH": str(checkout.resolve()),
        "HOME": str(folder / "home"),
        "PYTHONUSERBASE": site.getuserbase(),
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    return subprocess.Popen(
        [*words, f"--config.run-dir={folder / 'run'}"],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL if quiet else None,
    )


def about(*packages: str) -> dict[str, Any]:
    """Return date, processor, and versions, also of `packages`."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu_model(),
        "versions": versions(*packages),
    }


def cpu_model() -> str:
    """Return the processor's name."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    facts = dict(re.findall(r"^(model name|model)\s*:\s*(.+)$", text, re.MULTILINE))
    name = facts.get("model name", platform.processor())
    return f"{name} (model {facts['model']})" if "model" in facts else name


def versions(*more: str) -> dict[str, str]:
    """Return versions of Python and of the measured packages that are installed."""
    installed = {package.name: package.version for package in distributions()}
    names = ("jax", "jaxlib", "equinox", "optax", "torch", *more)
    python = {"python": platform.python_version()}
    return python | {name: installed[name] for name in names if name in installed}


def devices() -> str:
    """Return number and kind of JAX's devices, asked in a process of their own."""
    program = "import jax; d = jax.devices(); print(len(d), 'x', d[0].device_kind)"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def commit(checkout: Path) -> str:
    """Return the commit of a checkout; empty if git fails.

    It ends in `-dirty` if tracked files have changes.
    """
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    command = ["git", "-C", str(checkout), *describe]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
