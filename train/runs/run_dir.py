"""The directory of a run that trains: made, locked, and refused to another run.

config.json    every setting, and under `recorded` the data and the code
metrics.jsonl  one JSON object per line
checkpoints/   of the whole state
lock           held by the process that trains
"""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

from configs import (
    EVALUATION_MAY_CHANGE,
    MAY_CHANGE,
    RECIPE_MAY_CHANGE,
    UserError,
    require,
)
from data.storage import AnyPath, absolute, open_path, store_errors, write_whole
from train.runs.experiments import is_plain, own_experiment
from train.runs.lock import acquire
from train.runs.record import differences, parse, read_config, require_kind, settings
from train.runs.stored import saved_steps


class RunDir:
    """The directory of a run that this process trains, locked until `close`.

    Attributes:
        folder: the directory.
        recorded: the data and the code, for `config.json`.
        changes: settings of the recipe that a resumed run changes, as `name: old ->
            new`.

    Args:
        config: of the run.
        preset: name of the directory if the configuration has none.
        recorded: `kind`, `sizes` and `data_hash`, for `config.json`.

    Raises:
        UserError: if the directory cannot be written to, another process trains in it,
            or it holds a run of another configuration or of other data.
    """

    def __init__(self, config: Any, preset: str, recorded: dict[str, Any]):
        require(
            bool(config.run_dir) or jax.process_count() == 1,
            "Several processes need one run directory that all can reach: give "
            "`--config.run-dir`.",
        )
        started = time.strftime("%Y%m%d-%H%M%S")
        self.folder = open_path(config.run_dir or f"runs/{preset}-{started}")
        self.recorded = {"id": uuid.uuid4().hex[:8], **recorded}
        self.changes: list[str] = []
        self._compared, self._config = False, config
        self._release: Callable[[], None] = lambda: None
        make_folder(self.folder)
        if jax.process_index() == 0:
            with _folder_errors(self.folder):
                self._release = acquire(self.folder / "lock")
        try:  # without a checkpoint the configuration may still change
            if saved_steps(self.folder / "checkpoints"):
                self._require_same(read_config(self.folder / "config.json"))
        except UserError:
            self.close()
            raise

    def write_config(self) -> None:
        """Write `config.json`."""
        if jax.process_index() == 0:
            text = json.dumps(self.settings, indent=2) + "\n"
            with _folder_errors(self.folder):
                write_whole(self.folder / "config.json", text)

    @property
    def settings(self) -> dict[str, Any]:
        """The content of `config.json`."""
        return settings(self._config) | {"recorded": self.recorded}

    def require_same_as(self, tree: dict[str, Any]) -> None:
        """Raise `UserError` unless this configuration may resume another.

        Args:
            tree: the content of a `config.json`, as a checkpoint has it; may be empty.
        """
        self._require_same(parse(tree, self.folder) if tree else None)

    def _require_same(self, before: tuple[Any, dict[str, Any]] | None) -> None:
        if before is None:
            return
        old, record = before
        require_kind(old, self.folder, type(self._config))
        require_same_experiment(record, self.recorded.get("experiment"), self.folder)
        refused = differences(old, self._config, (*MAY_CHANGE, *RECIPE_MAY_CHANGE))
        require(
            not refused,
            f"`{self.folder}` holds a run of another configuration: "
            f"{'; '.join(refused)}. Give the same settings to resume it, or choose "
            "another `--config.run-dir`.",
        )
        require(
            record.get("data_hash") in (None, self.recorded["data_hash"]),
            f"`{self.folder}` holds a run on other data: their content hash was "
            f"{record['data_hash']} and is {self.recorded['data_hash']}. Restore the "
            "dataset, or choose another `--config.run-dir`.",
        )
        if self._compared:  # `config.json`, which is newer than the checkpoint
            return
        self._compared = True
        for name in record.keys() & {"id", "changes"}:
            self.recorded[name] = record[name]
        self.changes = differences(old, self._config)
        names = record.get("experiment"), self.recorded.get("experiment")
        if None not in names and names[0] != names[1]:
            self.changes.append(f"experiment: {names[0]} -> {names[1]}")

    def record_changes(self, step: int) -> None:
        """Record that a resumed run continues with `changes` after `step` steps."""
        if self.changes:
            earlier = self.recorded.get("changes", [])
            new = {"step": step, "settings": self.changes}
            self.recorded["changes"] = [*earlier, new]

    def close(self) -> None:
        """Release the lock."""
        self._release()


def make_folder(folder: AnyPath) -> None:
    """Make the directory of a run, if it is missing.

    Raises:
        UserError: if it cannot be made, or if its path is not UTF-8, which checkpoints
            need.
    """
    name = os.fsencode(absolute(folder))
    require(
        name.decode(errors="replace").encode() == name,
        f"The path of a run must be UTF-8: got {name!r}. Choose another "
        "`--config.run-dir`.",
    )
    with _folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def require_same_experiment(
    record: Mapping[str, Any], experiment: str | None, folder: AnyPath
) -> None:
    """Raise `UserError` if a run of an experiment of one's own is used without it.

    Args:
        record: of the run.
        experiment: `MODULE:CLASS` to use.
        folder: of the run.
    """
    own = own_experiment(record)
    require(
        own is None or not is_plain(experiment, record["kind"]),
        f"`{folder}` holds a run of the experiment `{own}`, and this command has the "
        f"experiment of `train.{record['kind']}`. Use the command that began the run, "
        "or choose another `--config.run-dir`.",
    )


def require_same_model(folder: AnyPath, config: Any, experiment: str) -> None:
    """Raise `UserError` unless the run in this folder is of the configured model."""
    before = read_config(folder / "config.json")
    if before is None:
        return
    require_kind(before[0], folder, type(config))
    require_same_experiment(before[1], experiment, folder)
    may = (*MAY_CHANGE, *RECIPE_MAY_CHANGE, *EVALUATION_MAY_CHANGE)
    changed = [
        line
        for line in differences(before[0], config, may)
        if line.startswith(("model.", "act."))
    ]
    require(
        not changed,
        f"`{folder}` holds a run of another model: {'; '.join(changed)}. Evaluate it "
        "with the settings it was trained with.",
    )


@contextmanager
def _folder_errors(folder: AnyPath) -> Iterator[None]:
    """Turn errors of a disk or a store into a `UserError`."""
    try:
        with store_errors():
            yield
    except OSError as error:
        raise UserError(
            f"Could not use the run directory `{folder}` ({error}). Choose another "
            "`--config.run-dir`."
        ) from error
