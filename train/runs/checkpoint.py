"""Checkpoints of a whole train state, by Orbax, in the background, from all processes.

A checkpoint is written under another name and renamed when complete, so that a process
killed while saving leaves the checkpoints before it as they were.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers as policies

from configs import RunConfig, RunError, UserError, require
from data.storage import AnyPath, absolute
from train.runs.damage import first_good, first_line
from train.runs.integrity import fingerprint, quiet_reads
from train.runs.retention import preservation
from train.runs.stored import (
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
    """Some number of a run is not finite.

    Args:
        what: is not finite.
        step: after which it was seen.
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


class Checkpoints:
    """The checkpoints of one run. Every process must make the same calls.

    Opened for reading alone, nothing in the folder changes: the run may be going on.
    """

    def __init__(
        self,
        folder: AnyPath,
        config: RunConfig,
        *,
        settings: Mapping[str, Any] | None = None,
        scores: Mapping[int, float | None] | None = None,
        read_only: bool = False,
    ):
        """Open the folder.

        Args:
            folder: of the checkpoints.
            config: which of them are kept.
            settings: what `config.json` says, saved with each checkpoint.
            scores: of steps that have been evaluated.
            read_only: whether to leave all as it is.

        Raises:
            UserError: if the folder cannot be used.
        """
        self._folder, self._read_only = folder, read_only
        self._settings, self._saving = dict(settings or {}), 0
        self._failed = False
        try:
            if not read_only:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"Checkpoints must have a folder to go to: got `{folder}` ({error}). "
                "Move what is there away, or choose another `--config.run-dir`."
            ) from error
        self._scores: dict[int, float] = {}
        try:
            with quiet_reads():
                self._manager = self._open(config)
        except Exception as error:
            raise UserError(
                f"The checkpoints in `{folder}` must be readable: one is so damaged "
                f"that Orbax gives up ({first_line(error)}). Move the newest one away."
            ) from error
        self._unreadable: set[int] = set()
        self._read_scores(scores or {})

    def _open(self, config: RunConfig) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            absolute(self._folder),
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=policies.FixedIntervalPolicy(1),
                preservation_policy=preservation(config, self._scores),
                cleanup_tmp_directories=not self._read_only,
                read_only=self._read_only,
            ),
            item_handlers={
                name: ocp.StandardCheckpointHandler()
                for name in TrainState.__dataclass_fields__ | {"counters": None}
            },
        )

    def _read_scores(self, scores: Mapping[int, float | None]) -> None:
        """Note the scores of the checkpoints; the first version kept them inside."""
        for step in self._manager.all_steps():
            try:
                with quiet_reads():
                    inside = metadata(self._manager, step).get("score")
            except Exception:
                self._unreadable.add(step)
                continue
            score = scores.get(step)
            score = inside if score is None else score
            if score is not None:
                self._scores[step] = score

    # -- saving

    def save(self, state: TrainState) -> None:
        """Start saving `state`; returns when it has been copied off the devices.

        Args:
            state: its step names the checkpoint. A step already saved is left alone.

        Raises:
            NonFiniteError: if a number in the state is not finite.
            SaveError: if it cannot be saved, or the save before could not.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = parts_of(state)
        arrays, finite = fingerprint(items)
        if not finite:
            raise NonFiniteError("infinite or undefined weights", step, self.newest)
        about = describe(arrays, self._settings)
        parts = {
            name: ocp.args.StandardSave(  # pyright: ignore[reportCallIssue]
                arrays_of(part)
            )
            for name, part in items.items()
        }
        self.check()
        self._saving = step
        with self._save_errors():
            self._manager.save(
                step, args=ocp.args.Composite(**parts), custom_metadata=about
            )

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

    @contextmanager
    def _save_errors(self) -> Iterator[None]:
        """Errors of Orbax as a `SaveError` that says what is kept."""
        try:
            yield
        except Exception as error:
            self._failed = True
            kept = set(saved_steps(self._folder)) - {self._saving}
            newest = f"that of step {max(kept)}" if kept else "none"
            raise SaveError(
                f"A checkpoint must have room and rights in `{self._folder}`: the "
                f"state of step {self._saving} could not be saved "
                f"({first_line(error)}). The newest one kept is {newest}. Make room, "
                "and the same command goes on from there."
            ) from error

    def close(self) -> None:
        """Complete all saves and let go of the folder; not after one has failed.

        Raises:
            SaveError: if one fails.
        """
        if not self._failed:
            with self._save_errors():
                self._manager.close()

    def score(self, step: int, score: float) -> None:
        """Note the score of a step; higher is better."""
        self._scores[step] = score

    @property
    def best(self) -> float:
        """The highest score of a checkpoint that is still there."""
        kept = set(self._manager.all_steps())
        return max(
            (score for step, score in self._scores.items() if step in kept),
            default=-math.inf,
        )

    @property
    def newest(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    @property
    def settings(self) -> dict[str, Any]:
        """What `config.json` said when the newest readable checkpoint was saved."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            if step not in self._unreadable:
                return metadata(self._manager, step).get("settings") or {}
        return {}

    # -- restoring

    def restore(self, abstract: Callable[[int], TrainState]) -> TrainState | None:
        """The newest state that can be read, or None if there is no checkpoint.

        A damaged checkpoint is set aside with a warning, and the one before is tried.

        Args:
            abstract: from a step to shapes, types and the shardings wanted now, on any
                mesh.

        Raises:
            UserError: if a checkpoint is that of another model, or if there are
                checkpoints and none can be read.
        """
        self.wait()
        steps = sorted(self._manager.all_steps(), reverse=True)
        return self._first_good(
            steps, lambda step: read_state(self._manager, step, abstract(step))
        )

    def restore_weights(
        self, model: PyTree, table: PyTree, *, best: bool, only: int | None = None
    ) -> tuple[PyTree, PyTree, int] | None:
        """The weights to release, the table, and their step; None without a checkpoint.

        They are the averaged weights where the run has these. A damaged checkpoint is
        passed over with a warning for the next best one, or the one before.

        Args:
            model: shapes, types and shardings wanted, on any mesh.
            table: the same of the puzzle table; () without one.
            best: the checkpoint of the highest score instead of the newest one; the
                newest if none has a score.
            only: the checkpoint of this step and no other.

        Raises:
            UserError: if there are checkpoints, and they are those of another model or
                none can be read, or if that of `only` is not among them.
        """

        def order(step: int) -> tuple[float, int]:
            # What cannot be read may have been the best: a warning will tell.
            unscored = math.inf if step in self._unreadable else -math.inf
            return self._scores.get(step, unscored) if best else 0.0, step

        steps = sorted(self._manager.all_steps(), key=order, reverse=True)
        if only is not None:
            kept = ", ".join(map(str, sorted(steps))) or "none"
            require(
                only in steps,
                f"A checkpoint must be one of those that are kept: got step {only}, "
                f"and there are {kept}. Name one of these.",
            )
            steps = [only]
        return self._first_good(
            steps, lambda step: read_weights(self._manager, step, model, table)
        )

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def _first_good(
        self, steps: list[int], read: Callable[[int], Result]
    ) -> Result | None:
        return first_good(
            self._manager, self._folder, steps, read, read_only=self._read_only
        )
