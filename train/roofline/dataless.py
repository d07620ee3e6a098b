"""The largest step of a run, as an experiment that needs no data."""

from dataclasses import replace
from math import gcd

import jax
from jax.sharding import Mesh

from configs import (
    ARC,
    FineWeb,
    GeneratedMaze,
    GeneratedSudoku,
    MazeHard,
    MeshConfig,
    OpenWebText,
    Shakespeare,
    SudokuExtreme,
    TextDataConfig,
    TrainGPT,
    TrainTRM,
    UserError,
)
from data.puzzles.arc.rows import FIRST_TASK
from data.storage import exists, open_path
from gpt.model import blocks_in_a_row
from train.experiment import AbstractExperiment
from train.gpt import GPTExperiment
from train.mesh import make_mesh
from train.models import Sizes
from train.presets import TRM_PRESETS
from train.trm import TRMExperiment

Config = TrainTRM | TrainGPT

EXPERIMENTS = {TrainTRM: TRMExperiment, TrainGPT: GPTExperiment}


def experiment_of(config: Config, mesh: Mesh) -> AbstractExperiment:
    """Return the experiment of a run's largest step.

    It has the largest batch and the greatest depth of the schedules, even if no step
    has both: the step where each begins may depend on data that do not exist yet.

    Raises:
        UserError: if devices or slices do not divide a batch.
    """
    kind = EXPERIMENTS[type(config)]
    kind(config, mesh=mesh, sizes={}).check()
    largest = max(config.batches.values)
    config = replace(config, batch_size=largest, batch_schedule="")
    if isinstance(config, TrainTRM):
        model = config.model_at(config.deepest)
        config = replace(config, model=model, depth_schedule="")
    else:
        platform = mesh.devices.flat[0].platform  # perhaps not that of this machine
        model = replace(config.model, unroll=blocks_in_a_row(config.model, platform))
        config = replace(config, model=model, loops_from=0.0)
    experiment = kind(config, mesh=mesh, sizes=sizes_of(config))
    experiment.total = 1  # the program does not depend on it
    return experiment


ARC_DATA = {
    "arc-small": {
        "identifiers": 783,
        "groups": 46,
        "train": 2_992,
        "test": 901,
    },
    "arc1": {
        "identifiers": 875_403,
        "groups": 959,
        "train": 3_630_399,
        "test": 385_812,
    },
    "arc2": {
        "identifiers": 1_191_733,
        "groups": 1_280,
        "train": 5_163_300,
        "test": 170_393,
    },
}
"""Sizes of the data of these presets, as `data.prepare` makes them."""


def sizes_of(config: Config) -> Sizes:
    """Return the sizes of a run's data on disk, else of the data it would make.

    Raises:
        UserError: if neither is known.
    """
    data = config.data
    text = isinstance(data, TextDataConfig)
    path = open_path(data.path if text else data.paths[0])
    if exists(path):
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        plain = replace(config, init_from="scratch")
        return EXPERIMENTS[type(config)](plain, mesh=mesh).sizes
    match data.build:
        case ARC() as build if isinstance(config, TrainGPT):
            if others := _arc_data(build, "augmentations", "colors"):
                return {"tokens": FIRST_TASK + 1 + others["groups"]}  # 1: the blank
        case SudokuExtreme():
            return {"vocab": 11, "seq": 81, "puzzles": 1}
        case GeneratedSudoku(size=size):
            return {"vocab": size + 2, "seq": size * size, "puzzles": 1}
        case MazeHard():
            return {"vocab": 6, "seq": 900, "puzzles": 1}
        case GeneratedMaze(size=size):
            return {"vocab": 6, "seq": size * size, "puzzles": 1}
        case ARC() as build if data := _arc_data(build):
            cells = build.side**2
            return {"vocab": 12, "seq": cells, "puzzles": data["identifiers"]}
        case Shakespeare(tokens="char"):
            return {"tokens": 65}
        case OpenWebText() | FineWeb() | Shakespeare():
            return {"tokens": 50257}
    raise UserError(f"Sizes of the data not known: build `{path}` first.")


def amounts_of(config: TrainTRM) -> tuple[int | float, int]:
    """Return the training examples of an epoch, and the test puzzles; see `sizes_of`.

    Raises:
        UserError: if they are not known.
    """
    if exists(open_path(config.data.paths[0])):
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        data = TRMExperiment(replace(config, init_from="scratch"), mesh=mesh)
        return data.train.examples_in(1), data.test.num_examples
    match config.data.build:
        case GeneratedSudoku(train=train, test=test):
            return train, test
        case GeneratedMaze(train=train, test=test):
            return train, test
        case SudokuExtreme(train_csv=(), min_difficulty=None, subsample=subsample):
            return subsample or 3_831_994, 422_786
        case MazeHard(train_csv=(), subsample=subsample):
            return subsample or 1000, 1000
        case ARC() as build if data := _arc_data(build):
            # An epoch uses one augmentation of each group.
            each = data["train"] / data["identifiers"]
            return data["groups"] * each, data["test"]
        case _:
            raise UserError(
                f"The length of the run is not known without its data: got "
                f"`{config.data.paths[0]}`. Build the data first, or omit `--run`."
            )


def _arc_data(build: ARC, *but: str) -> dict[str, int] | None:
    """Return the sizes of ARC data; None unless a preset has the same data.

    The settings `but` may differ; the tasks (`groups`) do not depend on augmentations.
    """
    for preset, data in ARC_DATA.items():
        other = TRM_PRESETS[preset][1].data.build
        assert isinstance(other, ARC)
        same = {name: getattr(other, name) for name in ("source", "processes", *but)}
        if replace(build, **same) == other:
            return data
    return None


def more_slices(config: Config, devices: int, slices: int) -> dict[str, int]:
    """Return the field that cuts a batch into more slices; {} if there is none.

    At least twice the number of `slices`. They divide a device's part of every batch.
    """
    if isinstance(config, TrainGPT):
        half = config.microbatch_size // 2
        return {"microbatch_size": half} if half else {}
    rows = gcd(*config.batches.values) // devices
    numbers = range(2 * slices, rows + 1)
    return next(({"accumulation": n} for n in numbers if rows % n == 0), {})
