"""Checkpoints of a whole train state, by Orbax, in the background, from all processes.

A checkpoint is written under another name and renamed when complete, so that a process
killed while saving leaves the checkpoints before it as they were. With it goes the
fingerprint of every array, by which a damaged one is told on reading: Orbax notices a
missing or short file, but not every wrong bit.
"""

import json
import math
import shutil
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers as policies

from configs import RunConfig, require
from train.integrity import Fingerprint, fingerprint, kinds
from train.preservation import preservation
from train.quiet_reads import quiet_reads
from train.state import TrainState

Result = TypeVar("Result")


def _items(state: TrainState) -> dict[str, PyTree]:
    """The parts of a state that hold arrays, by name."""
    parts = {
        "counters": {"step": state.step, "updates": state.updates},
        "model": state.model,
        "ema": state.ema,
        "table": {"rows": state.table},  # Orbax takes no bare array
        "opt_state": state.opt_state,
        "carry": state.carry,
        "scale": state.scale,
    }
    return {
        name: part
        for name, part in parts.items()
        if sum(leaf.size for leaf in jax.tree.leaves(part))
    }


class NonFiniteError(Exception):
    """Some number of a run is not finite.

    Args:
        what: is not finite.
        step: after which it was seen.
        saved: step of the newest checkpoint, all of which are good.
    """

    def __init__(self, what: str, step: int, saved: int | None):
        kept = "No checkpoint was saved yet."
        if saved is not None:
            kept = f"The checkpoint of step {saved} is good and was kept."
        super().__init__(
            f"Every number must be finite: got {what} at step {step}. {kept} Try a "
            "lower `--config.optim.lr`, more `--config.optim.warmup`, "
            "`--config.optim.clip 1.0`, or `--config.precision float32`, in a new "
            "`--config.run-dir`."
        )


class OtherModelError(ValueError):
    """A checkpoint is of another model than the configured one."""


class Checkpoints:
    """The checkpoints of one run. Every process must make the same calls.

    Opened for reading alone, nothing in the folder changes: the run may be going on.
    """

    def __init__(self, folder: Path, config: RunConfig, *, read_only: bool = False):
        self._folder, self._read_only = folder, read_only
        try:
            if not read_only:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"Checkpoints must have a folder to go to: got `{folder}` ({error}). "
                "Move what is there away, or choose another `--config.run-dir`."
            ) from error
        self._scores: dict[int, float] = {}
        try:
            with quiet_reads():
                self._manager = self._open(config)
        except Exception as error:
            raise ValueError(
                f"The checkpoints in `{folder}` must be readable: one is so damaged "
                f"that Orbax gives up ({_first_line(error)}). Move the newest one away."
            ) from error
        self._unreadable: set[int] = set()
        for step in self._manager.all_steps():
            try:
                with quiet_reads():
                    score = self._metadata(step).get("score")
            except Exception:
                self._unreadable.add(step)
                continue
            if score is not None:
                self._scores[step] = score

    def _open(self, config: RunConfig) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self._folder.absolute(),
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

    def _metadata(self, step: int) -> dict[str, Any]:
        """What was saved with a checkpoint besides its arrays."""
        return self._manager.metadata(step).custom_metadata or {}

    def save(self, state: TrainState, *, score: float | None = None) -> None:
        """Start saving `state`; returns when it has been copied off the devices.

        Args:
            state: its step names the checkpoint. A step already saved is left alone.
            score: of the evaluation at this step, if there was one; higher is better.

        Raises:
            NonFiniteError: if a number in the state is not finite.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = _items(state)
        arrays, finite = fingerprint(items)
        if not finite:
            raise NonFiniteError("infinite or undefined weights", step, self.newest)
        scored = {}
        if score is not None:
            scored = {"score": score}
            self._scores[step] = score
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{
                    name: ocp.args.StandardSave(part)  # pyright: ignore[reportCallIssue]
                    for name, part in items.items()
                }
            ),
            custom_metadata={"arrays": arrays, "crc": _crc(arrays), **scored},
        )

    def wait(self) -> None:
        """Return when all saves are complete."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Complete all saves and let go of the folder."""
        self._manager.close()

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

    def restore(self, abstract: TrainState) -> TrainState | None:
        """The newest state that can be read, or None if there is no checkpoint.

        A damaged checkpoint is set aside with a warning, and the one before is tried.

        Args:
            abstract: shapes, types and the shardings wanted now, on any mesh.

        Raises:
            ValueError: if a checkpoint is that of another model, or if there are
                checkpoints and none can be read.
        """
        self.wait()
        steps = sorted(self._manager.all_steps(), reverse=True)
        return self._first_good(steps, lambda step: self._state(step, abstract))

    def restore_weights(
        self, make: Callable[[dict[str, str]], PyTree], *, best: bool
    ) -> tuple[PyTree, int] | None:
        """The weights to release and their step; None if there is no checkpoint.

        They are the averaged ones where the run has these. A damaged checkpoint is
        passed over with a warning for the next best one, or the one before.

        Args:
            make: from type and shape of every stored array of the weights, by its path,
                to what is wanted: shapes, types and shardings on any mesh.
            best: the checkpoint of the highest score instead of the newest one; the
                newest if none has a score.

        Raises:
            ValueError: if there are checkpoints, and they are those of another model or
                none can be read.
        """

        def read(step: int) -> tuple[PyTree, int]:
            stored = self._stored(step)
            name = "ema" if any(path.startswith("ema.") for path in stored) else "model"
            stored = {p: v for p, v in stored.items() if p.startswith(f"{name}.")}
            cut = len(name) + 1
            wanted = {name: make({path[cut:]: v[0] for path, v in stored.items()})}
            self._require_same(stored, wanted, step)
            return self._read(step, wanted)[name], step

        def order(step: int) -> tuple[float, int]:
            # What cannot be read may have been the best: a warning will tell.
            unscored = math.inf if step in self._unreadable else -math.inf
            return self._scores.get(step, unscored) if best else 0.0, step

        steps = sorted(self._manager.all_steps(), key=order, reverse=True)
        return self._first_good(steps, read)

    def _first_good(
        self, steps: Sequence[int], read: Callable[[int], Result]
    ) -> Result | None:
        """The first of these checkpoints that can be read; None if there are none."""
        damaged: list[tuple[int, Exception]] = []
        for step in steps:
            try:
                with quiet_reads():
                    result = read(step)
            except OtherModelError:
                raise
            except Exception as error:
                damaged.append((step, error))
                continue
            self._set_aside(damaged, f"Going on from step {step}.")
            return result
        if damaged:
            listed = ", ".join(str(step) for step, _ in damaged)
            raise ValueError(
                f"A checkpoint in `{self._folder}` must be readable: steps {listed} "
                f"are all damaged (newest: {_first_line(damaged[0][1])}). Restore the "
                "folder from a copy, or start again with a new `--config.run-dir`."
            )
        return None

    def _state(self, step: int, abstract: TrainState) -> TrainState:
        """The state of a step.

        Raises:
            OtherModelError: if it is of another model.
            Exception: of many types, if it is damaged.
        """
        wanted = _items(abstract)
        self._require_same(self._stored(step), wanted, step)
        parts = self._read(step, wanted)
        counters = parts.pop("counters")
        if "table" in parts:
            parts["table"] = parts["table"]["rows"]
        # What holds no number was not stored: it is made as it is wanted.
        empty = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype)
        rest = {
            name: jax.tree.map(empty, part)
            for name, part in vars(abstract).items()
            if name not in parts and name not in counters
        }
        return TrainState(**rest, **counters, **parts)

    def _stored(self, step: int) -> Fingerprint:
        """The fingerprint of a checkpoint when it was saved."""
        metadata = self._metadata(step)
        arrays = metadata.get("arrays", {})
        require(bool(arrays), "the description of its arrays is missing")
        require(metadata.get("crc") == _crc(arrays), "its description is garbled")
        return {path: (kind, total) for path, (kind, total) in arrays.items()}

    def _read(self, step: int, wanted: dict[str, PyTree]) -> dict[str, PyTree]:
        """Some parts of the state of a step, checked."""
        stored = self._stored(step)
        args = {
            name: ocp.args.StandardRestore(part)  # pyright: ignore[reportCallIssue]
            for name, part in wanted.items()
        }
        read = self._manager.restore(step, args=ocp.args.Composite(**args))
        parts = {name: read[name] for name in wanted}
        for path, (_, checksum) in fingerprint(parts)[0].items():
            require(checksum == stored[path][1], f"the checksum of `{path}` is wrong")
        return parts

    def _require_same(self, stored: Fingerprint, wanted: PyTree, step: int) -> None:
        """Raise unless all arrays have the name, type and shape that is wanted."""
        there, here = {path: kind for path, (kind, _) in stored.items()}, kinds(wanted)
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                raise OtherModelError(
                    f"The checkpoint at step {step} in `{self._folder}` must be of the "
                    f"configured model: `{name}` is {there.get(name, 'missing')} "
                    f"there and {here.get(name, 'missing')} here. Use the "
                    "configuration it was made with, or a new `--config.run-dir`."
                )

    def _set_aside(self, damaged: list[tuple[int, Exception]], outcome: str) -> None:
        """Move damaged checkpoints out of the way of the next save, with a warning."""
        for step, error in damaged:
            target = self._folder.parent / "damaged" / str(step)
            what = "passed over" if self._read_only else f"moved to `{target}`"
            warnings.warn(
                f"The checkpoint at step {step} is damaged ({_first_line(error)}) and "
                f"was {what}. {outcome}",
                stacklevel=4,
            )
            if jax.process_index() == 0 and not self._read_only:
                shutil.rmtree(target, ignore_errors=True)
                target.parent.mkdir(exist_ok=True)
                shutil.move(str(self._folder / str(step)), str(target))
        if damaged and not self._read_only:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints set aside")
            self._manager.reload()


def _crc(arrays: Mapping[str, Sequence[object]]) -> int:
    return zlib.crc32(json.dumps(arrays, sort_keys=True).encode())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
