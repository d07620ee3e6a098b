"""Checkpoints of a whole train state, by Orbax, in the background, from all processes.

A checkpoint is written under another name and renamed when complete, so that a process
killed while saving leaves the checkpoints before it as they were.
"""

import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers as policies

from configs import RunConfig
from train.state import TrainState

BEST = "best"
"""Name under which a checkpoint's score is stored, the higher the better."""


def _items(state: TrainState) -> dict[str, PyTree]:
    """The parts of a state that hold arrays, by name."""
    parts = {
        "counters": {"step": state.step, "updates": state.updates},
        "model": state.model,
        "ema": state.ema,
        "table": {"rows": state.table},  # Orbax takes no bare array
        "opt_state": state.opt_state,
        "carry": state.carry,
    }
    return {name: part for name, part in parts.items() if jax.tree.leaves(part)}


def _shapes(tree: PyTree) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every leaf, by its path."""

    def name(path: tuple[Any, ...]) -> str:
        return jax.tree_util.keystr(path, simple=True, separator=".")

    leaves = jax.tree.leaves_with_path(tree)
    return {name(path): (tuple(x.shape), str(x.dtype)) for path, x in leaves}


class Checkpoints:
    """The checkpoints of one run. Every process must make the same calls."""

    def __init__(self, folder: Path, config: RunConfig):
        keep: list[policies.PreservationPolicy] = [policies.LatestN(config.keep_last)]
        if config.keep_best:
            keep.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[BEST],
                    n=config.keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        if config.keep_every:
            keep.append(policies.EveryNSteps(config.keep_every))
        self._folder = folder
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=policies.FixedIntervalPolicy(1),
                preservation_policy=policies.AnyPreservationPolicy(keep),
                cleanup_tmp_directories=True,
            ),
            item_handlers={
                name: ocp.StandardCheckpointHandler()
                for name in TrainState.__dataclass_fields__ | {"counters": None}
            },
        )

    def save(self, state: TrainState, *, score: float | None = None) -> None:
        """Start saving `state`; returns when it has been copied off the devices.

        Args:
            state: its step names the checkpoint. A step already saved is left alone.
            score: of the evaluation at this step, if there was one; higher is better.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = {
            name: ocp.args.StandardSave(part)  # pyright: ignore[reportCallIssue]
            for name, part in _items(state).items()
        }
        self._manager.save(
            step,
            args=ocp.args.Composite(**items),
            metrics=None if score is None else {BEST: score},
        )

    def wait(self) -> None:
        """Return when all saves are complete."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Complete all saves and let go of the folder."""
        self._manager.close()

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
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                stored = self._stored_shapes(step)
            except Exception as error:
                damaged.append((step, error))
                continue
            self._require_same(stored, abstract, step)
            try:
                state = self._read(step, abstract)
            except Exception as error:
                damaged.append((step, error))
                continue
            self._set_aside(damaged, f"Going on from step {step}.")
            return state
        if damaged:
            steps = ", ".join(str(step) for step, _ in damaged)
            raise ValueError(
                f"A checkpoint in `{self._folder}` must be readable: steps {steps} are "
                f"all damaged (newest: {_first_line(damaged[0][1])}). Restore the "
                "folder from a copy, or start again with a new `--config.run-dir`."
            )
        return None

    def _stored_shapes(self, step: int) -> dict[str, dict]:
        metadata = self._manager.item_metadata(step)
        stored = {}
        for name in metadata:
            if metadata[name] is not None:
                stored[name] = _shapes(metadata[name])
        if not stored:
            raise FileNotFoundError("the description of its arrays is missing")
        return stored

    def _require_same(
        self, stored: dict[str, dict], abstract: TrainState, step: int
    ) -> None:
        """Raise `ValueError` if a stored array has another name, shape or type."""
        expected = {name: _shapes(part) for name, part in _items(abstract).items()}
        for part, shapes in stored.items():
            wanted = expected.get(part, {})
            for name in sorted(shapes.keys() | wanted.keys()):
                if shapes.get(name) != wanted.get(name):
                    raise ValueError(
                        f"The checkpoint at step {step} in `{self._folder}` must be of "
                        f"the configured model: `{part}.{name}` is "
                        f"{_say(shapes.get(name))} there and {_say(wanted.get(name))} "
                        "here. Use the configuration it was made with, or a new "
                        "`--config.run-dir`."
                    )

    def _read(self, step: int, abstract: TrainState) -> TrainState:
        wanted = _items(abstract)
        args = {
            name: ocp.args.StandardRestore(part)  # pyright: ignore[reportCallIssue]
            for name, part in wanted.items()
        }
        read = self._manager.restore(step, args=ocp.args.Composite(**args))
        parts = {name: read[name] for name in wanted}
        counters = parts.pop("counters")
        table = parts.pop("table", {"rows": ()})["rows"]
        rest = {"ema": None, "carry": ()}
        return TrainState(**{**rest, **counters, **parts}, table=table)

    def _set_aside(self, damaged: list[tuple[int, Exception]], outcome: str) -> None:
        """Move damaged checkpoints out of the way of the next save."""
        for step, error in damaged:
            target = self._folder.parent / "damaged" / str(step)
            warnings.warn(
                f"The checkpoint at step {step} is damaged ({_first_line(error)}) and "
                f"was moved to `{target}`. {outcome}",
                stacklevel=3,
            )
            if jax.process_index() == 0:
                shutil.rmtree(target, ignore_errors=True)
                target.parent.mkdir(exist_ok=True)
                shutil.move(str(self._folder / str(step)), str(target))
        if damaged:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints set aside")
            self._manager.reload()


def _say(entry: tuple[tuple[int, ...], str] | None) -> str:
    if entry is None:
        return "missing"
    return f"{entry[1]}[{','.join(map(str, entry[0]))}]"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
