"""The directory of a run that trains: made, locked, and refused to another run.

config.json    every setting, and under `recorded` what the data and the code were
metrics.jsonl  one object a line
checkpoints/   of the whole state
lock           held by the process that trains
"""

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import jax

from configs import EVALUATION_MAY_CHANGE, MAY_CHANGE, UserError, require
from data.storage import AnyPath, open_path, store_errors, write_whole
from train.runs.lock import acquire
from train.runs.record import (
    differences,
    read_config,
    recorded_kind,
    require_kind,
    settings,
    without_record,
)
from train.runs.stored import saved_steps


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
        started = time.strftime("%Y%m%d-%H%M%S")
        self.folder = open_path(config.run_dir or f"runs/{preset}-{started}")
        self._release: Callable[[], None] = lambda: None
        self.new_length = ""
        make_folder(self.folder)
        try:
            if jax.process_index() == 0:
                self._release = acquire(self.folder / "lock")
        except OSError as error:
            raise _unusable(self.folder, error) from error
        self._kind, self._new = type(config), settings(config)
        self.recorded = {"id": uuid.uuid4().hex[:8], **recorded}
        try:
            old = read_config(self.folder) if self.started else None
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
        return bool(saved_steps(self.folder / "checkpoints"))

    def write_config(self) -> None:
        """Write `config.json`, when all else is known to be right."""
        if jax.process_index() != 0:
            return
        text = json.dumps(self.settings, indent=2) + "\n"
        try:
            write_whole(self.folder / "config.json", text)
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
        if old:
            require_kind(recorded_kind(old), self.folder, self._kind)
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
        """Release the lock."""
        self._release()


def make_folder(folder: AnyPath) -> None:
    """Make the directory of a run, if it is missing.

    Raises:
        UserError: if it cannot be made.
    """
    try:
        with store_errors():
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from error


def require_same_model(folder: AnyPath, config: Any) -> None:
    """Raise `UserError` unless the run in this folder is of the configured model."""
    old = read_config(folder) or {}
    same = lambda tree: {name: tree.get(name) for name in ("model", "act")}
    new, may = same(settings(config)), (*MAY_CHANGE, *EVALUATION_MAY_CHANGE)
    changed = differences(same(old), new, may) if old else []
    require(
        not changed,
        f"`{folder}` holds a run of another model: {'; '.join(changed)}. Evaluate it "
        "with the settings that it was trained with.",
    )


def _unusable(folder: AnyPath, error: OSError) -> UserError:
    return UserError(
        f"The run directory must be readable and writable: got `{folder}` ({error}). "
        "Choose another with `--config.run-dir`."
    )
