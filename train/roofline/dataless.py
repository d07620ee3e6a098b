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
    TrainGPT,
    TrainTRM,
    UserError,
)
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
        config = replace(config, model=model)
    experiment = kind(config, mesh=mesh, sizes=sizes_of(config))
    experiment.total = 1  # the program does not depend on it
    return experiment


ARC_PUZZLES = {"arc1": 875_403, "arc2": 1_191_733}
"""Puzzle identifiers in the data of these presets, from `docs/arc.md`."""


def sizes_of(config: Config) -> Sizes:
    """Return the sizes of a run's data on disk, else of the data it would make.

    Raises:
        UserError: if neither is known.
    """
    trm = isinstance(config, TrainTRM)
    path = open_path(config.data.paths[0] if trm else config.data.path)
    if exists(path):
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        plain = replace(config, init_from="scratch")
        return EXPERIMENTS[type(config)](plain, mesh=mesh).sizes
    match config.data.build:
        case SudokuExtreme():
            return {"vocab": 11, "seq": 81, "puzzles": 1}
        case GeneratedSudoku(size=size):
            return {"vocab": size + 2, "seq": size * size, "puzzles": 1}
        case MazeHard():
            return {"vocab": 6, "seq": 900, "puzzles": 1}
        case GeneratedMaze(size=size):
            return {"vocab": 6, "seq": size * size, "puzzles": 1}
        case ARC() as build if puzzles := _arc_puzzles(build):
            return {"vocab": 12, "seq": 900, "puzzles": puzzles}
        case Shakespeare(tokens="char"):
            return {"tokens": 65}
        case OpenWebText() | FineWeb() | Shakespeare():
            return {"tokens": 50257}
        case _:
            raise UserError(f"Sizes of the data not known: build `{path}` first.")


def _arc_puzzles(build: ARC) -> int | None:
    """Return the identifiers of ARC data; None unless a preset has the same data."""
    for preset, puzzles in ARC_PUZZLES.items():
        other = TRM_PRESETS[preset][1].data.build
        assert isinstance(other, ARC)
        if replace(build, source=other.source, processes=other.processes) == other:
            return puzzles
    return None


def more_slices(config: Config, devices: int) -> dict[str, int]:
    """Return the field that cuts a batch into more slices; {} if there is none.

    At least twice the number of slices. They divide a device's part of every batch.
    """
    if isinstance(config, TrainGPT):
        half = config.microbatch_size // 2
        return {"microbatch_size": half} if half else {}
    rows = gcd(*config.batches.values) // devices
    numbers = range(2 * config.accumulation, rows + 1)
    return next(({"accumulation": n} for n in numbers if rows % n == 0), {})
