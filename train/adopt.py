"""Write a run directory for weights from another format."""

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
        config: of the run; its `run_dir` becomes `out`.
        recorded: `kind`, `sizes` and more to record in `config.json`. Without a
            `data_hash`, the run may be resumed on any data of these sizes.
        states: the checkpoints, by ascending step.

    Raises:
        UserError: if `out` exists.
        RunError: if a checkpoint cannot be saved, or a weight is not finite.
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
