"""Checkpoints of a whole train state, written by Orbax in the background.

A checkpoint is written under a temporary name and renamed when complete, so a process
killed while saving does not affect earlier checkpoints.
"""

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers as policies

from configs import RunConfig, RunError, UserError, first_line, require
from data.storage import AnyPath, absolute, lacks_room, move_folder
from train.devices import all_agree, is_peer_lost
from train.runs.integrity import fingerprint
from train.runs.stored import (
    OtherModelError,
    arrays_of,
    describe,
    metadata,
    parts_of,
    read_state,
    read_weights,
    require_resources,
    saved_scores,
    saved_steps,
    unusable_steps,
    write_score,
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

    A checkpoint whose score is unknown may be one of them, so it is kept as well.
    Orbax's own policy forgets the scores when a process ends.

    Args:
        scores: by step; None for a step that was not evaluated.
        number: how many to keep.
    """

    def __init__(self, scores: Mapping[int, float | None], number: int):
        self._scores, self._number = scores, number

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        """Return, for each checkpoint, True if it may be one of the best."""
        if not self._number:
            return [False] * len(checkpoints)
        steps = [info.step for info in checkpoints]
        ranked = [step for step in steps if self._scores.get(step) is not None]
        ranked.sort(key=lambda step: (self._scores[step], step), reverse=True)
        kept = {*ranked[: self._number], *(set(steps) - self._scores.keys())}
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints of one run. Collective: every process makes the same calls.

    Args:
        folder: the folder of the checkpoints.
        config: which of them to keep.
        settings: the content of `config.json`, saved with each checkpoint.
        scores: score of evaluated steps, for checkpoints that were saved without it.
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
        self._settings, self._saving, self._failed = dict(settings or {}), 0, False
        # Of every step; None for one that was not evaluated.
        self._saved_scores = saved_scores(folder)
        self._scores = {**self._saved_scores, **(scores or {})}
        best = _Best(self._scores, config.keep_best)
        keep: list[Any] = [policies.LatestN(config.keep_last), best]
        if config.keep_every:
            keep.append(policies.EveryNSteps(config.keep_every))
        self._manager = self._open(keep)

    def _open(self, keep: list[Any]) -> ocp.CheckpointManager:
        """Open the folder; quarantine first what would be in the way."""
        unusable: dict[int, str] = {}
        try:
            if not self._read_only:
                self._folder.mkdir(parents=True, exist_ok=True)
            unusable = unusable_steps(self._folder)
            if not (self._read_only or all_agree(not unusable)):
                self._quarantine(unusable, "The run does not use it.")
            return ocp.CheckpointManager(
                absolute(self._folder),
                options=ocp.CheckpointManagerOptions(
                    save_decision_policy=policies.FixedIntervalPolicy(1),
                    preservation_policy=policies.AnyPreservationPolicy(keep),
                    cleanup_tmp_directories=not self._read_only,
                    read_only=self._read_only,
                ),
                item_handlers={
                    name: ocp.StandardCheckpointHandler()
                    for name in TrainState.__dataclass_fields__ | {"counters": None}
                },
            )
        except UserError:
            raise
        except Exception as error:
            require_resources(error)
            faults = [f"step {step}: {fault}" for step, fault in unusable.items()]
            raise UserError(
                f"Could not open the checkpoints in `{self._folder}` "
                f"({'; '.join(faults) or first_line(error)}). Move away what is "
                "damaged or takes the place of a folder, or choose another "
                "`--config.run-dir`."
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
        self.wait()
        self._scores.setdefault(step, None)
        self._saved_scores.pop(step, None)  # of a damaged checkpoint
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
        """Return when all saves are complete, with the scores known so far.

        Raises:
            SaveError: if one has failed.
        """
        with self._save_errors():
            self._manager.wait_until_finished()
            if not self._read_only:
                self._save_scores()

    def _save_scores(self) -> None:
        """Write new scores into the folders of their checkpoints."""
        for step, score in self._scores.items() - self._saved_scores.items():
            if step in self.steps:
                self._saved_scores[step] = score
                if jax.process_index() == 0:
                    write_score(self._folder, step, score)

    def close(self) -> None:
        """Complete all saves and close the folder, unless a save has failed.

        A save that needs a lost process never ends, so it is not waited for.

        Raises:
            SaveError: if one fails.
        """
        if not self._failed and not is_peer_lost(sys.exception()):
            self.wait()
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
            remedy = "Make room" if lacks_room(error) else "Remove the cause"
            raise SaveError(
                f"Could not save the state of step {self._saving} to `{self._folder}` "
                f"({first_line(error)}). The newest checkpoint is {newest}. {remedy}, "
                "and the same command resumes from there."
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
        return max(map(self._rank, self.steps), default=-math.inf)

    def score(self, step: int, score: float) -> None:
        """Note the score of a step; higher is better. The next `wait` saves it."""
        self._scores[step] = score

    def _rank(self, step: int) -> float:
        """Return the score of a step; minus infinity without one."""
        score = self._scores.get(step)
        return -math.inf if score is None else score

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
        state = self._first_readable(self.steps[::-1], read)
        if state is not None:  # if its evaluation is due, the run repeats it
            self._scores.setdefault(int(state.step), None)
        return state

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
        steps = [step for step in self.steps[::-1] if only in (None, step)]
        if best:
            steps.sort(key=self._rank, reverse=True)
        read = lambda step: read_weights(self._manager, step, model, table)
        weights = self._first_readable(steps, read)
        left = ", ".join(map(str, sorted(saved_steps(self._folder)))) or "none"
        require(
            weights is not None or only is None,
            f"The checkpoint of step {only} does not exist: the steps are {left}.",
        )
        return weights

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
                require_resources(error)
                fault = first_line(error)
            if all_agree(result is not None):
                if damaged:
                    self._quarantine(damaged, f"Going on from step {step}.")
                    self._manager.reload()
                return result
            if step in saved_steps(self._folder):
                damaged[step] = fault
            else:
                message = f"The checkpoint at step {step} is gone: the run removed it."
                warnings.warn(message, stacklevel=4)
        if not damaged:
            return None
        raise UserError(
            f"All checkpoints in `{self._folder}` are damaged: "
            f"{'; '.join(f'step {step}: {fault}' for step, fault in damaged.items())}. "
            "Restore the folder from a copy, or choose another `--config.run-dir`."
        )

    def _quarantine(self, damaged: Mapping[int, str], outcome: str) -> None:
        """Move damaged checkpoints out of the way of later saves, with a warning.

        Raises:
            UserError: if they cannot be moved.
        """
        for step, fault in damaged.items() if jax.process_index() == 0 else ():
            source, target = (
                self._folder / str(step),
                self._folder.parent / "damaged" / str(step),
            )
            if not self._read_only:
                try:
                    move_folder(source, target)
                except OSError as error:
                    raise UserError(
                        f"Could not move the damaged checkpoint `{source}` ({fault}) "
                        f"to `{target}` ({error}). Move it elsewhere."
                    ) from error
            what = "skipped" if self._read_only else f"moved to `{target}`"
            warnings.warn(
                f"The checkpoint at step {step} is damaged ({fault}) and was {what}. "
                f"{outcome}",
                stacklevel=5,
            )
        if not self._read_only and jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints quarantined")
