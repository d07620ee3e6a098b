"""Checkpoints of a whole train state, written by Orbax in the background.

A checkpoint is written under a temporary name and renamed when complete, so a process
killed while saving does not affect earlier checkpoints.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers as policies

from configs import RunConfig, RunError, UserError, require
from data.storage import AnyPath, absolute, move_folder
from train.devices import all_agree
from train.runs.integrity import fingerprint
from train.runs.stored import (
    OtherModelError,
    arrays_of,
    describe,
    metadata,
    parts_of,
    read_state,
    read_weights,
    saved_steps,
)
from train.state import TrainState

Result = TypeVar("Result")


class NonFiniteError(RunError):
    """A number of a run is not finite.

    Args:
        what: name and value.
        step: the step after which it was read.
        saved: step of the newest checkpoint.
    """

    def __init__(self, what: str, step: int, saved: int | None):
        kept = "No checkpoint was saved yet."
        if saved is not None:
            kept = (
                f"The checkpoint of step {saved} was kept: its weights are finite, but "
                "the run may have gone wrong before it."
            )
        super().__init__(
            f"Every number must be finite: got {what} at step {step}. {kept} Try a "
            "lower `--config.optim.lr`, more `--config.optim.warmup`, "
            "`--config.optim.clip 1.0`, or `--config.precision float32`, in a new "
            "`--config.run-dir`."
        )


class SaveError(RunError):
    """A state could not be saved."""


class _Best(policies.PreservationPolicy):
    """Keep the checkpoints of the highest scores; of equal scores, the newest.

    Orbax's own policy forgets the scores when a process ends.
    """

    def __init__(self, scores: Mapping[int, float], number: int):
        self._scores, self._number = scores, number

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        """Return, for each checkpoint, True if it is one of the best."""
        steps = [info.step for info in checkpoints if info.step in self._scores]
        steps.sort(key=lambda step: (self._scores[step], step), reverse=True)
        return [info.step in steps[: self._number] for info in checkpoints]


class Checkpoints:
    """The checkpoints of one run. Collective: every process makes the same calls.

    Args:
        folder: the folder of the checkpoints.
        config: which of them to keep.
        settings: the content of `config.json`, saved with each checkpoint.
        scores: score of every step evaluated so far.
        read_only: change nothing in the folder, so that the run may be training.

    Raises:
        UserError: if the folder cannot be used.
    """

    def __init__(
        self,
        folder: AnyPath,
        config: RunConfig,
        *,
        settings: Mapping[str, Any] | None = None,
        scores: Mapping[int, float] | None = None,
        read_only: bool = False,
    ):
        self._folder, self._read_only = folder, read_only
        self._settings, self._scores = dict(settings or {}), dict(scores or {})
        self._saving, self._failed = 0, False
        best = _Best(self._scores, config.keep_best)
        keep: list[Any] = [policies.LatestN(config.keep_last), best]
        if config.keep_every:
            keep.append(policies.EveryNSteps(config.keep_every))
        try:
            if not read_only:
                folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(
                absolute(folder),
                options=ocp.CheckpointManagerOptions(
                    save_decision_policy=policies.FixedIntervalPolicy(1),
                    preservation_policy=policies.AnyPreservationPolicy(keep),
                    cleanup_tmp_directories=not read_only,
                    read_only=read_only,
                ),
                item_handlers={
                    name: ocp.StandardCheckpointHandler()
                    for name in TrainState.__dataclass_fields__ | {"counters": None}
                },
            )
        except Exception as error:
            raise UserError(
                f"Could not open the checkpoints in `{folder}` ({first_line(error)}). "
                "Move away the newest one, or the file that takes the folder's place; "
                "or choose another `--config.run-dir`."
            ) from error

    # -- saving

    def save(self, state: TrainState) -> None:
        """Start saving `state`; return when it has been copied off the devices.

        A step that is saved already is not saved again.

        Raises:
            NonFiniteError: if a number in the state is not finite.
            SaveError: if this state cannot be saved, or the one before could not.
        """
        step = int(state.step)
        if step in self.steps:
            return
        parts = parts_of(state)
        arrays, finite = fingerprint(parts)
        if not finite:
            raise NonFiniteError("infinite or undefined weights", step, self.newest)
        items = {
            name: ocp.args.StandardSave(  # pyright: ignore[reportCallIssue]
                arrays_of(part)
            )
            for name, part in parts.items()
        }
        self.check()
        self._saving = step
        with self._save_errors():
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(**items),
                custom_metadata=describe(step, arrays, self._settings),
            )
            if not saved:
                raise RuntimeError("Orbax did not save it")

    def check(self) -> None:
        """Raise `SaveError` if the save under way has failed."""
        with self._save_errors():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Return when all saves are complete.

        Raises:
            SaveError: if one has failed.
        """
        with self._save_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Complete all saves and close the folder, unless a save has failed.

        Raises:
            SaveError: if one fails.
        """
        if not self._failed:
            with self._save_errors():
                self._manager.close()

    @contextmanager
    def _save_errors(self) -> Iterator[None]:
        """Turn errors of Orbax into a `SaveError`."""
        try:
            yield
        except Exception as error:
            self._failed = True
            kept = set(saved_steps(self._folder)) - {self._saving}
            newest = f"that of step {max(kept)}" if kept else "none"
            raise SaveError(
                f"Could not save the state of step {self._saving} to `{self._folder}` "
                f"({first_line(error)}). The newest checkpoint is {newest}. Make room "
                "or give write permission, and the same command resumes from there."
            ) from error

    # -- what is there

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def newest(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    @property
    def best(self) -> float:
        """The highest score of a checkpoint that still exists; else minus infinity."""
        scores = [self._scores.get(step, -math.inf) for step in self.steps]
        return max(scores, default=-math.inf)

    def scored(self, step: int) -> bool:
        """Return True if the score of a step is known."""
        return step in self._scores

    def score(self, step: int, score: float) -> None:
        """Note the score of a step; higher is better."""
        self._scores[step] = score

    @property
    def settings(self) -> dict[str, Any]:
        """The content of `config.json` when the newest readable one was saved."""
        for step in reversed(self.steps):
            try:
                return metadata(self._manager, step).get("settings") or {}
            except Exception:  # of many types, if it is damaged
                continue
        return {}

    # -- restoring

    def restore(self, abstract: Callable[[int], TrainState]) -> TrainState | None:
        """Return the newest readable state; None without a checkpoint.

        Damaged checkpoints are quarantined with a warning.

        Args:
            abstract: from a step to the shapes, types and shardings wanted, on any
                mesh.

        Raises:
            UserError: if a checkpoint is of another model, or none is readable.
        """
        self.wait()
        read = lambda step: read_state(self._manager, step, abstract(step))
        return self._first_readable(self.steps[::-1], read)

    def restore_weights(
        self, model: PyTree, table: PyTree, *, best: bool, only: int | None = None
    ) -> tuple[PyTree, PyTree, int] | None:
        """Return the weights to release, the table, and their step.

        The weights are the averaged ones if the run has these. Return None without a
        checkpoint. A damaged checkpoint is skipped with a warning.

        Args:
            model: shapes, types and shardings wanted, on any mesh.
            table: shapes, types and shardings of the puzzle table; () without one.
            best: prefer the highest score to the newest step.
            only: read the checkpoint of this step and no other.

        Raises:
            UserError: if a checkpoint is of another model, none is readable, or there
                is none of step `only`.
        """
        steps, kept = self.steps[::-1], ", ".join(map(str, self.steps)) or "none"
        if best:
            steps.sort(key=lambda step: self._scores.get(step, -math.inf), reverse=True)
        if only is not None:
            require(
                only in steps,
                f"The checkpoint of step {only} does not exist: the steps are {kept}.",
            )
            steps = [only]
        read = lambda step: read_weights(self._manager, step, model, table)
        return self._first_readable(steps, read)

    def _first_readable(
        self, steps: Sequence[int], read: Callable[[int], Result]
    ) -> Result | None:
        """Return the first of these checkpoints that all processes can read."""
        damaged: dict[int, str] = {}
        for step in steps:
            result, fault = None, "another process cannot read it"
            try:
                result = read(step)
            except OtherModelError:
                raise
            except Exception as error:  # of many types
                fault = first_line(error)
            if all_agree(result is not None):
                self._quarantine(damaged, f"Going on from step {step}.")
                return result
            damaged[step] = fault
        if not damaged:
            return None
        raise UserError(
            f"All checkpoints in `{self._folder}` are damaged: "
            f"{'; '.join(f'step {step}: {fault}' for step, fault in damaged.items())}. "
            "Restore the folder from a copy, or choose another `--config.run-dir`."
        )

    def _quarantine(self, damaged: Mapping[int, str], outcome: str) -> None:
        """Move damaged checkpoints out of the way of later saves, with a warning."""
        for step, fault in damaged.items() if jax.process_index() == 0 else ():
            target = self._folder.parent / "damaged" / str(step)
            what = "skipped" if self._read_only else f"moved to `{target}`"
            warnings.warn(
                f"The checkpoint at step {step} is damaged ({fault}) and was {what}. "
                f"{outcome}",
                stacklevel=5,
            )
            if not self._read_only:
                move_folder(self._folder / str(step), target)
        if damaged and not self._read_only:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints quarantined")
            self._manager.reload()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, shortened."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
