"""Trackers: where the numbers of a run go.

`metrics.jsonl` (`train.runs.metrics_file`), the terminal (`train.watch.terminal`),
Weights & Biases, TensorBoard, and any object with these two methods that is passed to
`train`.
"""

import importlib.util
import math
from typing import Any, Protocol, runtime_checkable

import jax

from configs import RunConfig, require
from data.storage import AnyPath, is_remote
from train.runs.metrics_file import MetricsFile
from train.watch.speed import Values


@runtime_checkable
class Tracker(Protocol):
    """A destination of numbers. Only the first process of a run has any."""

    def log(self, numbers: Values, step: int) -> None:
        """Take in the numbers of a step.

        Args:
            numbers: by name, which begins with `train/`, `eval/`, or `time/` (seconds
                without training); None where nothing was counted.
            step: the step after which they were measured.
        """

    def close(self) -> None:
        """Write what is left."""


def require_packages(config: RunConfig) -> None:
    """Raise `UserError` unless the packages of all configured trackers are there."""
    wanted = {
        "wandb": ("wandb", bool(config.wandb)),
        "tensorboard": ("tensorboardX", config.tensorboard),
    }
    for name, (package, on) in wanted.items():
        require(
            not on or importlib.util.find_spec(package) is not None,
            f"`--config.run.{name}` needs the package {package}: run "
            f"`pip install -e '.[{name}]'`.",
        )


def open_trackers(
    folder: AnyPath,
    config: RunConfig,
    settings: dict[str, Any],
    *,
    name: str,
    done: int,
) -> list[Tracker]:
    """Open the configured trackers of a run; none in other processes than the first.

    Args:
        folder: the run directory.
        config: which trackers to open.
        settings: the whole configuration, for W&B.
        name: identifier of the run, for W&B.
        done: steps made before; metrics of later steps are dropped.
    """
    if jax.process_index() != 0:
        return []
    trackers: list[Tracker] = [MetricsFile(folder / "metrics.jsonl", done)]
    if config.wandb:
        trackers.append(WandB(config.wandb, folder, settings, name))
    if config.tensorboard:
        trackers.append(TensorBoard(folder / "tensorboard"))
    return trackers


class WandB:
    """A run of Weights & Biases.

    Args:
        project: its project.
        folder: the run directory, whose name is the run's.
        settings: the whole configuration.
        name: identifier of the run; a resumed run keeps it.
    """

    def __init__(
        self, project: str, folder: AnyPath, settings: dict[str, Any], name: str
    ):
        import wandb  # pyright: ignore[reportMissingImports]

        self._run: Any = wandb.init(
            project=project,
            dir=None if is_remote(folder) else folder,
            id=name,
            name=folder.name,
            resume="allow",
            config=settings,
        )

    def log(self, numbers: Values, step: int) -> None:
        """Log the finite numbers."""
        self._run.log(_finite(numbers), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class TensorBoard:
    """Event files of TensorBoard in a folder."""

    def __init__(self, folder: AnyPath):
        from tensorboardX import SummaryWriter  # pyright: ignore

        self._writer = SummaryWriter(str(folder))

    def log(self, numbers: Values, step: int) -> None:
        """Log the finite numbers."""
        for name, value in _finite(numbers).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


def _finite(numbers: Values) -> dict[str, float]:
    pairs = numbers.items()
    return {name: x for name, x in pairs if x is not None and math.isfinite(x)}
