"""A run directory made of weights from elsewhere, as if they had been trained here."""

import dataclasses
import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from configs import LARGEST, RunConfig, TrainGPT, TrainTRM
from data.folder import new_folder
from train.runs.checkpoint import Checkpoints
from train.runs.record import settings
from train.state import TrainState


def adopt(
    out: Path,
    config: TrainTRM | TrainGPT,
    recorded: Mapping[str, Any],
    states: Iterable[TrainState],
) -> None:
    """Write a run directory of checkpoints; it appears when it is complete.

    Args:
        out: the directory to make.
        config: of the run; its `run_dir` will be `out`.
        recorded: `kind`, `sizes` and what else `config.json` is to say of the weights.
            Without a `data_hash`, any data of these sizes may follow.
        states: the checkpoints, by ascending step; made when they are wanted.

    Raises:
        UserError: if there is something at `out` already.
        RunError: if the checkpoint cannot be saved, or a weight is not finite.
    """
    config = dataclasses.replace(config, run_dir=str(out))
    record = {"id": uuid.uuid4().hex[:8], "data_hash": None, **recorded}
    tree = settings(config) | {"recorded": record}
    with new_folder(out) as folder:
        (folder / "config.json").write_text(json.dumps(tree, indent=2) + "\n")
        keep_all = RunConfig(keep_last=LARGEST)
        checkpoints = Checkpoints(folder / "checkpoints", keep_all, settings=tree)
        try:
            for state in states:
                checkpoints.save(state)
                checkpoints.wait()
        finally:
            checkpoints.close()
