"""What a run says: metrics in a file, on the terminal, in W&B and TensorBoard."""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from tqdm import tqdm

from configs import RunConfig, require
from train.objective import Metrics

Values = dict[str, float | None]


def averages(metrics: Metrics) -> Values:
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
        if value is not None:
            parts.append(f"{name} {value:.4g}")
    return "  ".join(parts)


def truncate(path: Path, step: int) -> None:
    """Drop what a file of metrics says of steps after `step` (they will be redone)."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            break  # the last line of a run that was killed
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def last_evaluation(folder: Path) -> dict[str, Any]:
    """The newest evaluation in the metrics of a run.

    Raises:
        ValueError: if there is none.
    """
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines if '"split": "eval"' in line]
    require(
        bool(found),
        f"`{folder}/metrics.jsonl` must hold an evaluation of the finished run: got "
        "none. `--config.run.eval-only` makes one.",
    )
    return found[-1]


class Report:
    """Reports of one run; only the first process writes.

    Args:
        folder: the run directory.
        config: which reports to write.
        settings: the whole configuration, for W&B.
        total: steps of the whole run.
        done: steps made before.
        rates: what else to report of training, given the examples a second.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        settings: dict[str, Any],
        *,
        total: int,
        done: int,
        rates: Callable[[float], Values] = lambda rate: {},
    ):
        self._file: TextIO | None = None
        self._wandb: Any = None
        self._tensorboard: Any = None
        self._examples, self._clock = 0, time.perf_counter()
        self._start, self._first = time.perf_counter(), done
        self._total, self._rates = total, rates
        self._bar: tqdm | None = None
        self._main = jax.process_index() == 0
        if not self._main:
            return
        if config.wandb:
            self._wandb = _wandb(config.wandb, folder, settings)
        if config.tensorboard:
            self._tensorboard = _tensorboard(folder)
        truncate(folder / "metrics.jsonl", done)
        self._file = (folder / "metrics.jsonl").open("a")
        if sys.stdout.isatty():
            self._bar = tqdm(total=total, initial=done, unit="step", file=sys.stdout)

    def say(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        if self._main:
            tqdm.write(text) if self._bar else print(text, flush=True)

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
        if self._file is None:
            return
        if split == "train":
            values = values | self._rates(rate)
        line = {"step": step, "split": split, **values, "examples_per_second": rate}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
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


def _wandb(project: str, folder: Path, settings: dict[str, Any]) -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        wandb = None
    require(
        wandb is not None,
        "`--config.run.wandb` needs the package wandb: it is not installed. Run "
        "`pip install -e '.[wandb]'`.",
    )
    assert wandb is not None
    return wandb.init(
        project=project, dir=folder, id=folder.name, resume="allow", config=settings
    )


def _tensorboard(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore
    except ImportError:
        SummaryWriter = None
    require(
        SummaryWriter is not None,
        "`--config.run.tensorboard` needs the package tensorboardX: it is not "
        "installed. Run `pip install -e '.[tensorboard]'`.",
    )
    assert SummaryWriter is not None
    return SummaryWriter(str(folder / "tensorboard"))
