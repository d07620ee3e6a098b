"""Train scripts in processes of their own, for tests of whole runs."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from data.storage import AnyPath

ROOT = Path(__file__).parent.parent
RATES = ("examples_per_second", "tokens_per_second", "data_wait_seconds")
Settings = dict[str, object]


def words(preset: str, settings: Settings) -> list[str]:
    """A command line's arguments."""
    pairs = [(f"--config.{name}", str(value)) for name, value in settings.items()]
    return [preset, *(word for pair in pairs for word in pair)]


@cache
def programs() -> str:
    """Compiled programs of all runs here; not shared, since some runs are killed."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return folder.name


def environment(devices: int = 1, **variables: str) -> dict[str, str]:
    """The variables of a process with so many CPU devices."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": programs(),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "HF_HUB_OFFLINE": "1",
        **variables,
    }


def start(
    module: str, argv: Sequence[str], devices: int = 1, **variables: str
) -> subprocess.Popen[str]:
    """A module as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *argv],
        cwd=ROOT,
        env=environment(devices, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    """What a run prints, on each of the two channels."""
    out, err = process.communicate(timeout=180)
    assert process.returncode == status, out[-2000:] + err[-4000:]
    return out, err


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


def metrics(folder: AnyPath) -> list[dict]:
    """All lines of metrics, without speed and time, which no two runs share."""
    text = (folder / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    lines = [line for line in lines if line["split"] != "time"]
    assert all(line["examples_per_second"] > 0 for line in lines)
    return [{k: v for k, v in line.items() if k not in RATES} for line in lines]


def last_step(folder: Path) -> int:
    """Step of the newest complete line of metrics."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    return json.loads(whole[-1])["step"] if whole else 0
