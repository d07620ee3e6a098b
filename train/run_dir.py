"""The directory of a run: its configuration, metrics and checkpoints."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax

from configs import MAY_CHANGE, require


def settings(config: Any) -> dict[str, Any]:
    """A configuration as JSON would give it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Settings that differ and may not, as `name: old -> new`."""
    before, after = _flat(old), _flat(new)
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
        and not any(name == m or name.startswith(m + ".") for m in MAY_CHANGE)
    ]


def open_run_dir(config: Any, preset: str) -> Path:
    """The run directory of `config`, made if missing, with `config.json` in it.

    Raises:
        ValueError: if it cannot be written to, or holds a run of another configuration.
    """
    require(
        bool(config.run_dir) or jax.process_count() == 1,
        "Several processes must share a run directory: got no `--config.run-dir`. "
        "Name one that all of them can reach.",
    )
    started = time.strftime("%Y%m%d-%H%M%S")
    folder = Path(config.run_dir or f"runs/{preset}-{started}")
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _require_same(_read(path), settings(config), folder)
        if jax.process_index() == 0:
            temporary = folder / "config.json.tmp"
            temporary.write_text(json.dumps(settings(config), indent=2) + "\n")
            temporary.replace(path)
    except OSError as error:
        raise ValueError(
            f"The run directory must be readable and writable: got `{folder}` "
            f"({error}). Choose another with `--config.run-dir`."
        ) from error
    return folder


def recorded(run_dir: str) -> dict[str, Any]:
    """The configuration of a run that is to go on.

    Raises:
        ValueError: if there is no such run.
    """
    path = Path(run_dir) / "config.json"
    require(
        bool(run_dir) and path.exists(),
        f"A run to go on with must have a `config.json`: got `{run_dir}`, which has "
        "none. Name its directory with `--config.run-dir`.",
    )
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    """The configuration in a file."""
    try:
        config = json.loads(path.read_text())
        valid = isinstance(config, dict)
    except (json.JSONDecodeError, UnicodeDecodeError):
        config, valid = {}, False
    require(
        valid,
        f"`{path}` must hold the configuration of the run: it is damaged. If this "
        "command is surely the one that made the run, remove the file and go on; else "
        "choose another `--config.run-dir`.",
    )
    return config


def _require_same(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    changed = differences(old, new)
    require(
        not changed,
        f"`{folder}` holds a run of another configuration: {'; '.join(changed)}. Give "
        "the same settings to continue it, or another `--config.run-dir`.",
    )
