"""What a run says: metrics in a file, on the terminal, in W&B and TensorBoard."""

import importlib.util
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from configs import RunConfig, require
from train.metrics_file import MetricsFile, scores, truncate
from train.objective import Metrics

Values = dict[str, float | None]
Rates = Callable[[float], Values]
"""From the examples a second of training to what else to report of it."""


def averages(metrics: Metrics | dict[str, Any]) -> Values:
    """Each sum over its count, on the host; None where nothing was counted."""
    host = jax.device_get(metrics)
    return {
        name: float(np.float64(total) / np.float64(count)) if count else None
        for name, (total, count) in host.items()
    }


def readable(values: Values) -> str:
    """Values in a line, for a person."""
    parts = []
    for name, value in values.items():
        if value is not None and name != "score":
            parts.append(f"{name} {value:.4g}")
    return "  ".join(parts)


def require_packages(config: RunConfig) -> None:
    """Raise `UserError` unless the packages of all configured reports are installed."""
    wanted = {
        "wandb": ("wandb", bool(config.wandb)),
        "tensorboard": ("tensorboardX", config.tensorboard),
    }
    for name, (package, on) in wanted.items():
        require(
            not on or importlib.util.find_spec(package) is not None,
            f"`--config.run.{name}` needs the package {package}: it is not installed. "
            f"Run `pip install -e '.[{name}]'`.",
        )


# -- all reports -----------------------------------------------------------------------


class Report:
    """Reports of one run; only the first process writes.

    Args:
        folder: the run directory.
        config: which reports to write.
        settings: the whole configuration, for W&B.
        name: of the run, for W&B.
        total: steps of the whole run.
        done: steps made before.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        settings: dict[str, Any],
        *,
        name: str = "",
        total: int,
        done: int,
    ):
        self._file: MetricsFile | None = None
        self._wandb: Any = None
        self._tensorboard: Any = None
        self._examples, self._clock = 0, time.perf_counter()
        self._start, self._first = time.perf_counter(), done
        self._total = total
        self._bar: tqdm | None = None
        self._evaluated = set(scores(folder, done))
        self._main = jax.process_index() == 0
        if not self._main:
            return
        if config.wandb:
            self._wandb = _wandb(config.wandb, folder, name, settings)
        if config.tensorboard:
            self._tensorboard = _tensorboard(folder)
        truncate(folder / "metrics.jsonl", done)
        self._file = MetricsFile(folder / "metrics.jsonl")
        if sys.stdout.isatty():
            self._bar = tqdm(total=total, initial=done, unit="step", file=sys.stdout)

    def say(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        if self._main:
            tqdm.write(text) if self._bar else print(text, flush=True)

    def knows(self, step: int) -> bool:
        """Whether an evaluation of this step has been recorded."""
        return step in self._evaluated

    def progress(self, step: int, examples: int) -> None:
        """Note that `step` is made, of so many examples."""
        self._examples += examples
        if self._bar:
            self._bar.update(step - self._bar.n)

    def rate(self) -> float:
        """Examples each second since the last call of `rate` or `restart_clock`."""
        now = time.perf_counter()
        rate = self._examples / max(now - self._clock, 1e-9)
        self.restart_clock()
        return rate

    def restart_clock(self) -> None:
        """Count examples and time from now, after work that was not training."""
        self._examples, self._clock = 0, time.perf_counter()

    def record(self, step: int, split: str, values: Values, rate: float) -> None:
        """Write one line of metrics everywhere."""
        if split == "eval":
            self._evaluated.add(step)
        if self._file is None:
            return
        row = {"step": step, "split": split, **values, "examples_per_second": rate}
        self._file.append(row)
        numbers = {
            f"{split}/{name}": value
            for name, value in {**values, "examples_per_second": rate}.items()
            if value is not None and math.isfinite(value)
        }
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, step)
        self.say(f"{split} {step}/{self._total}{self._eta(step)}  {readable(values)}")

    def _eta(self, step: int) -> str:
        """Time left, on plain lines; a progress bar shows its own."""
        if self._bar or step <= self._first or step >= self._total:
            return ""
        each = (time.perf_counter() - self._start) / (step - self._first)
        left = int(each * (self._total - step))
        return f" ({left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left)"

    def close(self) -> None:
        """Close all files."""
        if self._bar:
            self._bar.close()
        for open_file in (self._file, self._tensorboard):
            if open_file is not None:
                open_file.close()
        if self._wandb is not None:
            self._wandb.finish()


def _wandb(project: str, folder: Path, name: str, settings: dict[str, Any]) -> Any:
    import wandb  # pyright: ignore[reportMissingImports]

    return wandb.init(
        project=project,
        dir=folder,
        id=name,
        name=folder.name,
        resume="allow",
        config=settings,
    )


def _tensorboard(folder: Path) -> Any:
    from tensorboardX import SummaryWriter  # pyright: ignore

    return SummaryWriter(str(folder / "tensorboard"))


# -- speed -----------------------------------------------------------------------------

PEAKS = {
    # Dense bfloat16 (V100: float16) in TFLOP/s, from the makers' data sheets; the first
    # name found in the device's own counts. On a TPU v2 and v3 a device is one core.
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "TPU v2": 22.5,
    "TPU v3": 61.5,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5": 459.0,
    "TPU v6": 918.0,
}


def peak_flops(device_kind: str) -> float | None:
    """Operations a second of a device, or None if it is not in the table."""
    for name, tera in PEAKS.items():
        if name in device_kind:
            return tera * 1e12
    return None


def throughput(mesh: Mesh, tokens: int, flops: int) -> Rates:
    """Tokens a second, and MFU where the devices' peak is known.

    Args:
        mesh: the devices.
        tokens: of an example.
        flops: of a token, forward and backward.
    """
    peak = peak_flops(mesh.devices.flat[0].device_kind)

    def rates(examples: float) -> Values:
        values: Values = {"tokens_per_second": examples * tokens}
        if peak is not None:
            values["mfu"] = examples * tokens * flops / (peak * mesh.size)
        return values

    return rates
