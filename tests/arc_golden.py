"""The golden ARC case: input and output of the official builder and evaluator.

`golden/arc` contains the builder's input (`raw`), its output with 5 augmentations and
seed 1 (`dataset`, its arrays in `dataset.npz`), predictions for its test split with
padding, and the evaluator's result in batches of 7 (commit e7b6871). The ten tasks are
from fchollet/ARC-AGI (Apache-2.0).
"""

import json
import shutil
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "golden" / "arc"
RAW = FOLDER / "raw"
BATCH = 7


def write_official(out: Path) -> Path:
    """Write the dataset of the official builder."""
    shutil.copytree(FOLDER / "dataset", out)
    with np.load(FOLDER / "dataset.npz") as arrays:
        for name in arrays.files:
            np.save(out / f"{name}.npy", arrays[name])
    return out


def expected(name: str):
    return json.loads((FOLDER / f"{name}.json").read_text())


def predictions() -> list[tuple[np.ndarray, ...]]:
    """Return the arguments of `Votes.add`, batch by batch."""
    names = ("puzzle_identifiers", "inputs", "preds", "q_halt_logits")
    with np.load(FOLDER / "predictions.npz") as stored:
        columns = [stored[name] for name in names]
    starts = range(0, len(columns[0]), BATCH)
    return [tuple(column[i : i + BATCH] for column in columns) for i in starts]
