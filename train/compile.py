"""Before renting: will a run fit, and how fast can it be at best?

    python -m train.compile sudoku --topology v4-64 --config.batch-size 6144
    python -m train.compile gpt2 --topology v5e-16 --fit
    python -m train.compile sudoku-attention --topology here

Compiles the train step of any preset of `train.trm` and `train.gpt`, with all of
their fields, for a slice of TPUs that need not be here (`pip install -e '.[tpu]'`), or
for the devices that are (`here`). Besides the fields:

    --topology   v4-64, v5e-16, v5p-128, v6e-8, ...; by its chips, v4:4x4x2; or here
    --fit        if it does not fit, try more slices of the batch until it does
    --top N      show the N places of the code that move the most
    --json FILE  add what comes out to a file

`docs/compile.md` says how to read what is printed.
"""

import argparse
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from math import gcd, prod
from pathlib import Path
from typing import Any

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
    require,
)
from data.storage import exists, open_path
from train import cli
from train.experiment import AbstractExperiment
from train.gpt import GPTExperiment
from train.mesh import make_mesh
from train.models import Sizes
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.roofline.chips import slice_devices
from train.roofline.hlo import Program
from train.roofline.study import Facts, study
from train.trm import TRMExperiment

Config = TrainTRM | TrainGPT

PRESETS: dict[str, tuple[str, Any]] = {**TRM_PRESETS, **GPT_PRESETS}

MEGA, GIGA, GIB = 10**6, 10**9, 2**30


# -- what is compiled ------------------------------------------------------------------


EXPERIMENTS = {TrainTRM: TRMExperiment, TrainGPT: GPTExperiment}


def experiment_of(config: Config, mesh: Mesh) -> AbstractExperiment:
    """Return the experiment of a run's largest step, without its data.

    With several batches it has the largest, with several depths the deepest, even if no
    step has both: when each begins may depend on data that are not here.

    Raises:
        UserError: if devices or slices do not divide a batch.
    """
    EXPERIMENTS[type(config)](config, mesh=mesh, sizes={}).check()
    largest = max(config.batches.values)
    config = dataclasses.replace(config, batch_size=largest, batch_schedule="")
    if isinstance(config, TrainTRM):
        model = config.model_at(config.deepest)
        config = dataclasses.replace(config, model=model, depth_schedule="")
    experiment = EXPERIMENTS[type(config)](config, mesh=mesh, sizes=sizes_of(config))
    experiment.total = 1  # the program does not depend on it
    return experiment


ARC_PUZZLES = {"arc1": 876_410, "arc2": 1_191_733}
"""Identifiers of the data of these presets, as `docs/arc.md` counts them."""


def arc_puzzles(build: ARC) -> int | None:
    """Identifiers of ARC made like this; None unless it is as in a preset."""
    plain = lambda one: dataclasses.replace(one, source="", processes=1)
    for preset, puzzles in ARC_PUZZLES.items():
        if plain(TRM_PRESETS[preset][1].data.build) == plain(build):
            return puzzles
    return None


def sizes_of(config: Config) -> Sizes:
    """The sizes of the data: of those on disk, else of those that would be made.

    Raises:
        UserError: if there are none, and it is not known what would be made.
    """
    trm = isinstance(config, TrainTRM)
    path = open_path(config.data.paths[0] if trm else config.data.path)
    if exists(path):
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        plain = dataclasses.replace(config, init_from="scratch")
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
        case ARC() as build if puzzles := arc_puzzles(build):
            return {"vocab": 12, "seq": 900, "puzzles": puzzles}
        case OpenWebText() | FineWeb():
            return {"tokens": 50257}
        case Shakespeare(tokens=tokens):
            return {"tokens": 65 if tokens == "char" else 50257}
        case _:
            require(False, f"The sizes of the data must be known: make `{path}` first.")
            raise AssertionError


def with_more_slices(config: Config, devices: int) -> Config | None:
    """The same run with the next larger number of slices; None if there is none.

    It is at least twice as large, and divides what a device has of every batch.
    """
    if isinstance(config, TrainTRM):
        rows, now = gcd(*config.batches.values) // devices, config.accumulation
        slices = next((n for n in range(2 * now, rows + 1) if rows % n == 0), None)
        if slices is None:
            return None
        return dataclasses.replace(config, accumulation=slices)
    if config.microbatch_size == 1:
        return None
    return dataclasses.replace(config, microbatch_size=config.microbatch_size // 2)


def slices_flag(config: Config) -> str:
    """The flag that asks for the slices of a run."""
    if isinstance(config, TrainTRM):
        return f"--config.accumulation {config.accumulation}"
    return f"--config.microbatch-size {config.microbatch_size}"


# -- what is printed -------------------------------------------------------------------


def describe(facts: Facts, config: Config, fit: bool) -> Iterator[str]:
    """What came out, line by line."""
    mesh = " x ".join(map(str, facts["mesh"].values()))
    devices = prod(facts["mesh"].values())
    slices = facts["slices"]
    yield (
        f"{devices} x {facts['device']}, mesh {mesh}: {facts['batch']} examples a "
        f"step, {facts['batch'] // devices} on a device in {slices} "
        f"slice{'s' if slices > 1 else ''}"
    )
    gib = lambda size: "?" if size is None else f"{size / GIB:.2f} GiB"
    room = f" of {gib(facts['room'])}" if facts["room"] else ""
    if not facts["fits"]:
        more = with_more_slices(config, devices)
        advice = ""
        if more is not None and not fit:
            advice = f" Try `{slices_flag(more)}`, or `--fit`."
        yield f"fits      no: {gib(facts['peak'])}{room} a device.{advice}"
        return
    yield f"fits      yes: {gib(facts['peak'])}{room} a device at the peak"
    state = {name: size for name, size in facts["state"].items() if size > MEGA / 10}
    parts = [f"{name} {size / MEGA:,.1f}" for name, size in state.items()]
    rest = facts["peak"] - sum(facts["state"].values())
    yield f"memory    MB a device: {', '.join(parts)}, the rest {rest / MEGA:,.1f}"
    yield (
        f"          in place: {facts['aliased_arrays']} of {facts['arrays']} arrays of "
        f"the state; program {facts['code'] / MEGA:,.1f}"
    )
    updates = facts["updates"]
    found = [
        f"{kind} {number / updates:g} ({size / updates / MEGA:,.1f} MB)"
        for kind, (number, size) in facts["collectives"].items()
    ]
    inside = facts["collectives_in_loops"]
    yield f"network   {', '.join(found) or 'no collective'}; {inside} of them in loops"
    unknown = facts["loops"].count(None)
    if unknown:
        yield f"          {unknown} loops of unknown length count as one round"
    if "seconds" not in facts:
        work = (
            f"{facts['flops'] / updates / GIGA:,.1f} GFLOP, "
            f"{facts['bytes'] / updates / GIGA:,.2f} GB"
        )
        yield f"at best   not known: {facts['device']} is not in the tables; {work}"
        return
    collected = sum(size for _, size in facts["collectives"].values())
    amounts = {
        "compute": f"{facts['flops'] / updates / 1e12:,.2f} TFLOP",
        "memory": f"{facts['bytes'] / updates / GIGA:,.1f} GB",
        "network": f"{collected / updates / MEGA:,.1f} MB in collectives",
    }
    for name, amount in amounts.items():
        mark = "  <- the bound" if name == facts["bound"] else ""
        time_ms = 1000 * facts["seconds"][name] / updates
        yield f"at best   {time_ms:8.2f} ms a step by {name}: {amount}{mark}"
    mfu = facts["rates"].get("mfu")
    mfu = "" if mfu is None else f", an MFU of {mfu:.0%}"
    yield f"          so at most {facts['best_rate']:,.0f} examples a second{mfu}"
    yield f"compiled  in {facts['compile_s']:.0f} s"


def movers(program: Program, number: int) -> Iterator[str]:
    """The kinds and places of operations that move the most, line by line."""
    total: Counter[tuple[str, str, str]] = Counter()
    times: Counter[tuple[str, str, str]] = Counter()
    for size, run in program.traffic():
        operation = run.operation
        key = (
            operation.kind,
            re.sub(r"\{[^{}]*\}", "", operation.shape),
            operation.place,
        )
        total[key] += size
        times[key] += run.times
    for (kind, shape, place), size in total.most_common(number):
        count = times[kind, shape, place]
        yield f"  {size / GIGA:7.2f} GB {count:5d} x {kind} {shape[:60]} {place[-60:]}"


# -- the command -----------------------------------------------------------------------


def options(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The flags of this script, and the rest of the command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--topology", default="here")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--top", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile and report; the exit status is 0 if it fits, else 1.

    Raises:
        UserError: if the command line or the slice is wrong.
    """
    flags, rest = options(argv)
    preset, config = cli.parse(PRESETS, __doc__ or "", rest)
    if flags.topology != "here":
        # For what is compiled ahead no device is touched, nor can it be read back.
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_compilation_cache", False)
    mesh = make_mesh(config.mesh, slice_devices(flags.topology))
    print(f"{preset} on {flags.topology}", flush=True)
    while True:
        facts, program = study(experiment_of(config, mesh))
        for line in describe(facts, config, flags.fit):
            print(line, flush=True)
        more = with_more_slices(config, mesh.size) if flags.fit else None
        if facts["fits"] or more is None:
            break
        config = more
    if program is not None and flags.top:
        print("moved most, a device and dispatch:")
        print("\n".join(movers(program, flags.top)))
    if flags.json is not None:
        case = {"preset": preset, "topology": flags.topology, **facts}
        with flags.json.open("a") as file:
            file.write(json.dumps(case) + "\n")
    return 0 if facts["fits"] else 1


if __name__ == "__main__":
    cli.run(main)
