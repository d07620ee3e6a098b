"""Going back to the newest checkpoint that can be read; damaged ones are set aside."""

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from configs import UserError
from data.storage import AnyPath, move_folder
from train.devices import all_agree
from train.runs.integrity import quiet_reads
from train.runs.stored import OtherModelError

Result = TypeVar("Result")


def first_good(
    manager: ocp.CheckpointManager,
    folder: AnyPath,
    steps: Sequence[int],
    read: Callable[[int], Result],
    *,
    read_only: bool,
) -> Result | None:
    """The first of these checkpoints that all processes can read; None if none.

    Args:
        manager: of the checkpoints.
        folder: they are in.
        steps: to try, in this order.
        read: from a step to what is wanted of it.
        read_only: whether damaged ones stay where they are.

    Raises:
        UserError: if there are checkpoints and none can be read.
    """
    damaged: list[tuple[int, str]] = []
    for step in steps:
        result, fault = None, "another process cannot read it"
        try:
            with quiet_reads():
                result = read(step)
        except OtherModelError:
            raise
        except Exception as error:
            fault = first_line(error)
        if not all_agree(result is not None) or result is None:
            damaged.append((step, fault))
            continue
        outcome = f"Going on from step {step}."
        for other, fault in damaged:
            _set_aside(folder, other, fault, outcome, read_only)
        if damaged and not read_only:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints set aside")
            manager.reload()
        return result
    if damaged:
        listed = ", ".join(str(step) for step, _ in damaged)
        raise UserError(
            f"A checkpoint in `{folder}` must be readable: steps {listed} "
            f"are all damaged (newest: {damaged[0][1]}). Restore the folder from a "
            "copy, or start again with a new `--config.run-dir`."
        )
    return None


def _set_aside(
    folder: AnyPath, step: int, fault: str, outcome: str, read_only: bool
) -> None:
    """Move a damaged checkpoint out of the way of the next save, with a warning."""
    if jax.process_index() != 0:
        return
    target = folder.parent / "damaged" / str(step)
    what = "passed over" if read_only else f"moved to `{target}`"
    warnings.warn(
        f"The checkpoint at step {step} is damaged ({fault}) and was {what}. {outcome}",
        stacklevel=5,
    )
    if not read_only:
        move_folder(folder / str(step), target)


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
