"""What a run says: metrics in a file, on the terminal, in W&B and TensorBoard."""

import importlib.util
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from configs import RunConfig, require
from train.metrics_file import MetricsFile, scores, truncate
from train.objective import Metrics
from train.speed import Values


def averages(metrics: Metrics | dict[str, Any]) -> Values:
    """Each sum over its count, on the host; None where nothing was counted."""
    host = jax.device_get(metrics)
    return {
        name: float(np.float64(total) / np.float64(count)) if count else None
        for name, (total, count) in host.items()
    }


def arranged(values: Values, speed: Values) -> Values:
    """Losses first, then accuracies, then the speed, then the rest."""
    is_loss = lambda name: name.endswith("loss")
    is_accuracy = lambda name: name.endswith("accuracy")
    first = sorted(values, key=lambda name: (not is_loss(name), not is_accuracy(name)))
    head = [name for name in first if is_loss(name) or is_accuracy(name)]
    rest = [name for name in first if name not in head]
    pick = lambda names: {name: values[name] for name in names}
    return {**pick(head), **speed, **pick(rest)}


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

    Attributes:
        folder: the run directory.

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
        self.folder = folder
        self._file: MetricsFile | None = None
        self._wandb: Any = None
        self._tensorboard: Any = None
        self._start, self._first, self._total = time.perf_counter(), done, total
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

    def progress(self, step: int) -> None:
        """Note that `step` is made."""
        if self._bar:
            self._bar.update(step - self._bar.n)

    def record(
        self, step: int, split: str, values: Values, speed: Values | None = None
    ) -> None:
        """Write one line of metrics everywhere.

        Args:
            step: after which they are.
            split: `train`, `eval`, or `time` for seconds in which no step was made.
            values: what came out.
            speed: how fast that was.
        """
        if split == "eval":
            self._evaluated.add(step)
        if self._file is None:
            return
        values = arranged(values, speed or {})
        self._file.append({"step": step, "split": split, **values})
        numbers = {
            f"{split}/{name}": value
            for name, value in values.items()
            if value is not None and math.isfinite(value)
        }
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, step)
        if split != "time":
            self.say(
                f"{split} {step}/{self._total}{self._eta(step)}  {readable(values)}"
            )

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
