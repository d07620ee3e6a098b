"""Compile a train step without running it: does it fit, and how fast can it be?

    python -m train.compile sudoku --topology v4-64 --config.batch-size 6144
    python -m train.compile gpt2 --topology v5e-16 --fit
    python -m train.compile sudoku-attention --topology h200
    python -m train.compile sudoku-attention --topology here

Takes the presets and fields of `train.trm` and `train.gpt`. Compiles for the devices of
this machine (`here`), or for a TPU slice (`pip install -e '.[tpu]'`) or NVIDIA GPUs
(`pip install -e '.[compile-gpu]'`) you do not have.

    --topology   v4-64, v5e-16, v5p-128, v6e-8, ...; by its chips, v4:4x4x2; a GPU:
                 b200, h200, h100, h100pcie, a100, l40s, rtx5090, rtx4090; several of a
                 machine, h200-8; or here
    --fit        if it does not fit, try more slices of the batch until it does
    --run        estimate the whole run: steps, evaluations, compiling
    --top N      show the N operations that move the most bytes, and the N that take
                 the longest by the compiler's estimate (TPUs)
    --json FILE  append the results to a file

`docs/memory.md` explains the output. The exit status is 0 if the step fits, else 1.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace

import jax

from configs import require
from data.storage import append_text, open_path, require_writable
from train import cli
from train.devices import backend
from train.mesh import make_mesh
from train.presets import PRESETS
from train.roofline.dataless import experiment_of, more_slices
from train.roofline.report import describe, largest
from train.roofline.study import GIGA, study, study_evaluation
from train.roofline.topology import devices_of
from train.roofline.whole import describe_run, plan_of


def options(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return the flags of this script, and the rest of the command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--topology", default="here")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--top", type=int, default=0)
    parser.add_argument("--json", default="")
    return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile and report; return the exit status.

    Raises:
        UserError: if the command line or the slice is wrong.
    """
    flags, rest = options(argv)
    preset, config = cli.parse(PRESETS, __doc__, rest)
    require(
        flags.top >= 0,
        f"`--top` must be a number of operations, 0 or more: got {flags.top}.",
    )
    results = open_path(flags.json)
    if flags.json:
        require_writable(results)
    if flags.topology != "here":
        # No device is touched, and the cache cannot read such programs back.
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_compilation_cache", False)
    backend()  # fails without a device
    mesh = make_mesh(config.mesh, devices_of(flags.topology))
    print(f"{preset} on {flags.topology}", flush=True)
    while True:
        experiment = experiment_of(config, mesh)
        facts, program = study(experiment)
        more = more_slices(config, mesh.size, facts["slices"])
        for line in describe(facts, {} if flags.fit else more):
            print(line, flush=True)
        if facts["fits"] or not (flags.fit and more):
            break
        config = replace(config, **more)
    if facts["fits"] and flags.run:
        facts["evaluation"] = study_evaluation(experiment)
        for line in describe_run(plan_of(config), facts):
            print(line, flush=True)
    if program is not None and flags.top:
        print("moved most, a device and dispatch:")
        print("\n".join(largest(program.traffic(), flags.top, "GB", GIGA)))
        if clock := facts.get("clock"):
            print("longest by the compiler's estimate:")
            ms = clock * GIGA / 1000
            print("\n".join(largest(program.cycles(), flags.top, "ms", ms)))
    if flags.json:
        case = {"preset": preset, "topology": flags.topology, **facts}
        append_text(results, json.dumps(case) + "\n")
    return 0 if facts["fits"] else 1


if __name__ == "__main__":
    cli.run(main)
