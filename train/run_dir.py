"""The directory of a run: its configuration, its lock, and loading what it trained.

config.json    every setting, and under `recorded` what the data and the code were
metrics.jsonl  one object a line
checkpoints/   of the whole state
lock           held by the process that trains
"""

import dataclasses
import fcntl
import importlib
import json
import os
import socket
import time
import types
import typing
import uuid
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from configs import MAY_CHANGE, RunConfig, TrainGPT, TrainTRM, UserError, require
from train.checkpoint import Checkpoints
from train.mesh import layout
from train.report import scores
from train.table import TABLE, make_table

Config = TypeVar("Config", TrainGPT, TrainTRM)
Sizes = dict[str, int]
"""Sizes that come from the data, by the names that the model's `build` asks for."""

CONFIGS = {"trm": TrainTRM, "gpt": TrainGPT}
"""Kinds of model, each with a recipe `train/<kind>.py`."""


# -- config.json -----------------------------------------------------------------------


def settings(config: Any) -> dict[str, Any]:
    """A configuration as JSON gives it back; unions of classes say which it is."""
    return json.loads(json.dumps(_plain(config)))


def _plain(value: Any, hint: Any = None) -> Any:
    if not dataclasses.is_dataclass(value):
        return value
    hints = typing.get_type_hints(type(value))
    fields = {
        field.name: _plain(getattr(value, field.name), hints[field.name])
        for field in dataclasses.fields(value)
    }
    return {"class": type(value).__name__, **fields} if _is_union(hint) else fields


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def from_settings(kind: type[Config], tree: dict[str, Any]) -> Config:
    """The configuration of this kind that `settings` has written.

    Raises:
        UserError: if it has settings that this version does not know.
    """
    try:
        return _parsed(kind, tree)
    except (TypeError, KeyError) as error:
        raise UserError(
            f"`config.json` must be that of a {kind.__name__} of this version: it has "
            f"another setting ({error}). Use the version that made the run."
        ) from error


def _parsed(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    if _is_union(hint):
        # A run of the first version does not say the class: what made its data is
        # then unknown, and needed no more.
        kinds = {kind.__name__: kind for kind in typing.get_args(hint)}
        if "class" not in value:
            return None
        hint = kinds[value["class"]]
        value = {name: part for name, part in value.items() if name != "class"}
    hints = typing.get_type_hints(hint)
    return hint(**{name: _parsed(hints[name], part) for name, part in value.items()})


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Settings that differ and may not, as `name: old -> new`."""
    before, after = _flat(old), _flat(new)
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
        and not any(name == m or name.startswith(m + ".") for m in MAY_CHANGE)
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


# -- opening a run to train ------------------------------------------------------------


class RunDir:
    """The directory of a run that this process trains, locked until it ends.

    Attributes:
        folder: the directory.
        recorded: what `config.json` says of the data and the code.
        new_length: how the length of a continued run has changed; empty if not.
    """

    def __init__(self, config: Any, preset: str, recorded: dict[str, Any]):
        """Open the directory, which is made if it is missing.

        Args:
            config: of the run.
            preset: of the name of the directory, if none is configured.
            recorded: `kind`, `sizes` and `data_hash`, to be kept in `config.json`.

        Raises:
            UserError: if it cannot be written to, another process trains in it, or it
                holds a run of another configuration, or of other data.
        """
        require(
            bool(config.run_dir) or jax.process_count() == 1,
            "Several processes must share a run directory: got no `--config.run-dir`. "
            "Name one that all of them can reach.",
        )
        require(
            "://" not in config.run_dir,
            "A run directory must be a local path, or one that is mounted: got "
            f"`{config.run_dir}`. Object stores are not supported yet.",
        )
        started = time.strftime("%Y%m%d-%H%M%S")
        self.folder = Path(config.run_dir or f"runs/{preset}-{started}")
        self._lock: TextIO | None = None
        self.new_length = ""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                self._lock = _lock(self.folder / "lock")
        except OSError as error:
            raise _unusable(self.folder, error) from error
        self._new = settings(config)
        self.recorded = {"id": uuid.uuid4().hex[:8], **recorded}
        try:
            old = _read(self.folder) if self.started else None
            if old is not None:
                self.require_same_as(old)
                before = old.get("recorded", {})
                self.recorded["id"] = before.get("id", self.folder.name)
        except UserError:
            self.close()
            raise

    @property
    def started(self) -> bool:
        """Whether there is a checkpoint: else nothing binds the configuration."""
        folder = self.folder / "checkpoints"
        return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())

    def write_config(self) -> None:
        """Write `config.json`, when all else is known to be right."""
        if jax.process_index() != 0:
            return
        path = self.folder / "config.json"
        try:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self.settings, indent=2) + "\n")
            temporary.replace(path)
        except OSError as error:
            raise _unusable(self.folder, error) from error

    @property
    def settings(self) -> dict[str, Any]:
        """What `config.json` says, for checkpoints and other reports."""
        return self._new | {"recorded": self.recorded}

    def require_same_as(self, old: dict[str, Any]) -> None:
        """Raise `UserError` unless these settings of the run may be continued.

        Args:
            old: what `config.json` or a checkpoint says; nothing of the first version.
        """
        changed = differences(without_record(old), self._new) if old else []
        for name in old.keys() & {"epochs", "max_iters"}:
            if old[name] != self._new[name]:
                self.new_length = f"{name}: {old[name]} -> {self._new[name]}"
        require(
            not changed,
            f"`{self.folder}` holds a run of another configuration: "
            f"{'; '.join(changed)}. Give the same settings to continue it, or another "
            "`--config.run-dir`.",
        )
        before = old.get("recorded", {}).get("data_hash")
        require(
            before in (None, self.recorded["data_hash"]),
            f"The run in `{self.folder}` must go on with the data that it began with: "
            f"their content hash was {before} and is {self.recorded['data_hash']}. "
            "Restore the dataset, or start anew in another `--config.run-dir`.",
        )

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            self._lock.close()


def require_same_model(folder: Path, config: Any) -> None:
    """Raise `UserError` unless the run in this folder is of the configured model."""
    old = _read(folder) or {}
    same = lambda tree: {name: tree.get(name) for name in ("model", "act")}
    changed = differences(same(old), same(settings(config))) if old else []
    require(
        not changed,
        f"`{folder}` holds a run of another model: {'; '.join(changed)}. Evaluate it "
        "with the settings that it was trained with.",
    )


def without_record(tree: dict[str, Any]) -> dict[str, Any]:
    """The settings alone of what `config.json` says."""
    return {name: value for name, value in tree.items() if name != "recorded"}


def _unusable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"The run directory must be readable and writable: got `{folder}` ({error}). "
        "Choose another with `--config.run-dir`."
    )


def _lock(path: Path) -> TextIO:
    """The open file whose lock this process holds; it goes with the process.

    Raises:
        UserError: if another process holds it.
    """
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise UserError(
            f"One process at a time may train in a run directory: `{path.parent}` is "
            f"in use by {holder}. Wait for it, stop it, or choose another "
            "`--config.run-dir`."
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def _read(folder: Path) -> dict[str, Any] | None:
    """What `config.json` says; None if it is missing.

    Raises:
        UserError: if it is damaged.
    """
    path = folder / "config.json"
    if not path.exists():
        return None
    try:
        config = json.loads(path.read_text())
        valid = isinstance(config, dict)
    except (ValueError, RecursionError):
        config, valid = {}, False
    require(
        valid,
        f"`{path}` must hold the configuration of the run: it is damaged. If this "
        "command is surely the one that made the run, remove the file and go on; else "
        "choose another `--config.run-dir`.",
    )
    return config


# -- loading what a run has trained ----------------------------------------------------


def recorded_run(run_dir: str | Path) -> tuple[str, Any, dict[str, Any]]:
    """The kind, the configuration and the record of a run.

    Raises:
        UserError: if there is no such run.
    """
    path = Path(run_dir) / "config.json"
    tree = _read(Path(run_dir)) if str(run_dir) else None
    require(
        tree is not None,
        f"A run must have a `config.json`: there is no `{path}`. Check the path.",
    )
    assert tree is not None
    record = tree.get("recorded", {})
    kind = record.get("kind") or ("trm" if "act" in tree else "gpt")
    require(
        kind in CONFIGS,
        f"A run must be of one of the kinds {', '.join(CONFIGS)}: `{path}` is of "
        f"`{kind}`. Use the version that made it.",
    )
    return kind, from_settings(CONFIGS[kind], without_record(tree)), record


@dataclass(frozen=True)
class LoadedRun:
    """What a run has trained, on one device."""

    kind: str
    """`trm` or `gpt`."""

    config: Any
    """Of the run: a `TrainTRM` or a `TrainGPT`."""

    model: Any
    """The averaged weights where the run has these; float32."""

    table: PyTree
    """The puzzle table of a TRM (a `Table`); () of a GPT."""

    step: int
    """Of the checkpoint."""

    sizes: Sizes = field(default_factory=dict)
    """What the data's sizes were."""


def load_run(
    run_dir: str | Path,
    checkpoint: Literal["best", "newest"] | int = "best",
    mesh: Mesh | None = None,
) -> LoadedRun:
    """The model of a run, whatever mesh it was trained on. The run may be going on.

    Args:
        run_dir: folder of the run.
        checkpoint: the one of the best score, the newest or that of a step; a damaged
            one is passed over with a warning, unless it is named.
        mesh: where to put it; None for one device.

    Raises:
        UserError: if there is no such run, or no checkpoint that can be read.
    """
    kind, config, record = recorded_run(run_dir)
    recipe = importlib.import_module(f"train.{kind}")
    sizes = record.get("sizes") or recipe.sizes_of_data(config)
    devices = 1 if mesh is None else mesh.size

    def build() -> tuple[Any, PyTree]:
        model, rows = recipe.build(config, sizes)
        return model, make_table(rows, devices)

    model, table = jax.eval_shape(build)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def placed(leaf: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        sharding = device if mesh is None else NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    specs = jax.tree.map(lambda _: PartitionSpec(), model)
    model = jax.tree.map(placed, model, specs if mesh is None else layout(model, mesh))
    table = jax.tree.map(lambda leaf: placed(leaf, TABLE), table)
    with closing(_opened(Path(run_dir))) as checkpoints:
        restored = checkpoints.restore_weights(
            model,
            table,
            best=checkpoint == "best",
            only=checkpoint if isinstance(checkpoint, int) else None,
        )
    if restored is None:
        raise UserError(
            f"A run must have a checkpoint to read: `{run_dir}` has none yet. Wait for "
            "the first, or train first."
        )
    return LoadedRun(kind, config, *restored, sizes=sizes)


def kept_steps(run_dir: str | Path) -> list[int]:
    """Steps of the checkpoints that a run has now, ascending."""
    with closing(_opened(Path(run_dir))) as checkpoints:
        return checkpoints.steps


def _opened(folder: Path) -> Checkpoints:
    """The checkpoints of a run, for reading alone."""
    return Checkpoints(
        folder / "checkpoints", RunConfig(), scores=scores(folder), read_only=True
    )


def resumed_config(kind: type[Config], run_dir: str) -> Config | None:
    """The configuration of a run that has a checkpoint to go on with; None if none."""
    path = Path(run_dir) / "checkpoints"
    if not run_dir or not path.is_dir() or not any(path.iterdir()):
        return None
    tree = _read(Path(run_dir))
    return None if tree is None else from_settings(kind, without_record(tree))
