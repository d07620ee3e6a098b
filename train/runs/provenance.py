"""Version, commit and libraries of the code that trains, for `config.json`."""

import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
LIBRARIES = ("jax", "jaxlib", "equinox", "optax", "orbax-checkpoint", "numpy")


def code() -> dict[str, Any]:
    """Return the version of this project, its commit, and its libraries' versions."""
    return {
        "version": _version("tiny-recursive-jax"),
        "commit": commit(ROOT),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def commit(root: Path) -> str | None:
    """Return the commit of a Git checkout; None if there is none."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
