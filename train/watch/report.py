"""What a run says: metrics in a file, on the terminal, in W&B and TensorBoard."""

import importlib.util
import math
import time
from typing import Any

import jax
import numpy as np

from configs import RunConfig, require
from data.storage import AnyPath, is_remote
from gpt.metrics import Metrics
from train.runs.metrics_file import MetricsFile, scores
from train.watch.screen import Screen, clock
from train.watch.speed import Values


def averages(metrics: Metrics | dict[str, Any]) -> Values:
    """Each sum over its count, on the host; None where nothing was counted."""
    host = jax.device_get(metrics)
    return {
        name: float(np.float64(total) / np.float64(count)) if count else None
        for name, (total, count) in host.items()
    }


def arranged(values: Values, speed: Values) -> Values:
    """A loss first, then accuracies, other losses, the speed, and the rest."""
    losses = [name for name in values if name.endswith("loss")]
    accuracies = [name for name in values if name.endswith("accuracy")]
    head = [*losses[:1], *accuracies, *losses[1:]]
    rest = [name for name in values if name not in head]
    pick = lambda names: {name: values[name] for name in names}
    return {**pick(head), **speed, **pick(rest)}


def readable(values: Values) -> list[str]:
    """Values for a person, one by one."""
    parts = []
    for name, value in values.items():
        if value is None or name == "score":
            continue
        match name:
            case "examples_per_second" if values.get("tokens_per_second"):
                continue  # those are told
            case "examples_per_second" | "tokens_per_second":
                unit = name.partition("_")[0]
                shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
                parts.append(f"{shown} {unit}/s")
            case "mfu":
                parts.append(f"mfu {value:.1%}")
            case "memory_bytes":
                peak = values.get("memory_peak_bytes") or value
                parts.append(
                    f"memory {value / 2**30:.2f} (peak {peak / 2**30:.2f}) GiB"
                )
            case "memory_peak_bytes":
                continue
            case "data_wait_seconds":
                parts.append(f"waited {value:.2g} s for data")
            case _:
                parts.append(f"{name} {value:.4g}")
    return parts


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
        screen: what is printed.

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
        folder: AnyPath,
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
        self._total, self._latest = total, list[str]()
        self._first: tuple[int, float] | None = None
        self.screen = Screen()
        self._evaluated = {step for step in scores(folder) if step <= done}
        self._main = jax.process_index() == 0
        if not self._main:
            return
        if config.wandb:
            self._wandb = _wandb(config.wandb, folder, name, settings)
        if config.tensorboard:
            self._tensorboard = _tensorboard(folder)
        self._file = MetricsFile(folder / "metrics.jsonl", done)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        self.screen.say(text)

    def knows(self, step: int) -> bool:
        """Whether an evaluation of this step has been recorded."""
        return step in self._evaluated

    def progress(self, step: int) -> None:
        """Note that `step` is made; what it took to compile the first is past."""
        if self._first is None:
            self._first = step, time.perf_counter()
        left = self._left(step)
        parts = [f"{step:,}/{self._total:,}", *([left] if left else []), *self._latest]
        self.screen.draw(parts, step, self._total)

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
            shown = readable(values)
            left = self._left(step) if split == "train" else ""
            self.screen.line(
                [f"{split} {step}/{self._total}", *shown], f" ({left})" if left else ""
            )
        if split == "train":
            main = ("loss", "accuracy", "per_second")
            firsts = [
                next((name for name in values if name.endswith(end)), "")
                for end in main
            ]
            told = {name: values[name] for name in firsts if name}
            self._latest = readable(told)

    def flush(self) -> None:
        """Return when every line of metrics is where it stays, however the run ends.

        Raises:
            RunError: if it cannot be written.
        """
        if self._file is not None:
            self._file.flush()

    def _left(self, step: int) -> str:
        """The time left, as far as it can be told."""
        if self._first is None or not self._first[0] < step < self._total:
            return ""
        each = (time.perf_counter() - self._first[1]) / (step - self._first[0])
        return f"{clock(each * (self._total - step))} left"

    def close(self) -> None:
        """Close all files."""
        self.screen.close()
        for open_file in (self._file, self._tensorboard):
            if open_file is not None:
                open_file.close()
        if self._wandb is not None:
            self._wandb.finish()


def _wandb(project: str, folder: AnyPath, name: str, settings: dict[str, Any]) -> Any:
    import wandb  # pyright: ignore[reportMissingImports]

    return wandb.init(
        project=project,
        dir=None if is_remote(folder) else folder,
        id=name,
        name=folder.name,
        resume="allow",
        config=settings,
    )


def _tensorboard(folder: AnyPath) -> Any:
    from tensorboardX import SummaryWriter  # pyright: ignore

    return SummaryWriter(str(folder / "tensorboard"))
