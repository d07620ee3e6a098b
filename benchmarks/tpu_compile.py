"""Compile our train steps for a TPU slice that is not here: `benchmarks.tpu_compile`.

Needs `libtpu` (the extra `tpu`) and no TPU: sizes, memory and collectives come from the
compiler. Speed on the chips is not measured.

Examples:
    python -m benchmarks.tpu_compile
    python -m benchmarks.tpu_compile --presets sudoku --meshes 32 1 --accumulation 4
    python -m benchmarks.tpu_compile --presets gpt2 --meshes 32 1 4 8 --unroll 12 --add
"""

if not __package__:
    raise SystemExit("Run it from the project's root: python -m benchmarks.tpu_compile")

import json
import os
import re
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from benchmarks import machine
from benchmarks.cases import VOCAB
from benchmarks.ours import lower, make_recipe
from configs import TrainGPT, TrainTRM, require
from gpt.attention import Kernel
from train.mesh import AXES
from train.presets import GPT_PRESETS, TRM_PRESETS

TOKENS = 50257
"""Different tokens of GPT-2's byte pairs."""

HBM = 30.75 * 2**30
"""Bytes of a v4 chip that a program may use."""

LIBTPU = {
    # Any valid slice: else libtpu asks the cloud's metadata server for one.
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",
    # Compiling takes no chip, so several processes may do it at once.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


def slice_mesh(data: int, model: int, topology: str = "v4:4x4x2") -> Mesh:
    """A (data, model) mesh over a slice of v4 chips; one device a chip (megacore).

    Raises:
        RuntimeError: without libtpu.
    """
    for name, value in LIBTPU.items():
        os.environ.setdefault(name, value)
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=topology, chip_config_name="megacore"
    )
    return jax.make_mesh(
        (data, model),
        AXES,
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=described.devices,
    )


def collectives(hlo: str) -> dict[str, int]:
    """How often each kind of collective stands in a compiled program."""
    return dict(Counter(re.findall(rf" ({COLLECTIVES})(?:-start)?\(", hlo)))


def loops(hlo: str) -> list[str]:
    """For each loop of a compiled program, the text of all that it repeats."""
    found = re.finditer(r"^(?:ENTRY )?%(\S+) \(.*?\{\n(.*?)^\}", hlo, re.M | re.S)
    bodies = {match[1]: match[2] for match in found}

    def repeated(first: str) -> str:
        names = [first]
        for name in names:  # grows
            called = dict.fromkeys(re.findall(r"%([\w.\-]+)", bodies[name]))
            names += [n for n in called if n in bodies and n not in names]
        return "\n".join(bodies[name] for name in names)

    return [repeated(n) for n in re.findall(r" while\(.*?body=%([\w.\-]+)", hlo)]


def compile_facts(
    config: TrainTRM | TrainGPT, mesh: Mesh, kernel: Kernel = "xla"
) -> dict[str, Any]:
    """Seconds to lower and compile a step; its memory on a chip; its collectives."""
    tokens = VOCAB if isinstance(config, TrainTRM) else TOKENS
    recipe = make_recipe(config, tokens, devices=mesh.size, kernel=kernel)
    start = time.perf_counter()
    lowered, state = lower(recipe, mesh)
    middle = time.perf_counter()
    compiled = lowered.compile()
    seconds = {"lower_s": middle - start, "compile_s": time.perf_counter() - middle}
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None
    assert hlo is not None
    sizes = ("peak_memory", "argument_size", "output_size", "alias_size", "temp_size")
    each_chip = lambda a: prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize
    aliases = re.findall(r"(?:may|must)-alias", hlo.split("\n", 1)[0])
    repeated = loops(hlo)
    return {
        **{name: round(value, 1) for name, value in seconds.items()},
        **{f"{name}_bytes": getattr(memory, f"{name}_in_bytes") for name in sizes},
        "code_bytes": memory.generated_code_size_in_bytes,
        "state_bytes": sum(map(each_chip, jax.tree.leaves(state))),
        "state_arrays": len(jax.tree.leaves(state)),
        "aliased_arrays": len(aliases),
        "pallas_calls": hlo.count('custom_call_target="tpu_custom_call"'),
        "collectives": collectives(hlo),
        "loops": len(repeated),
        "collectives_in_loops": collectives("\n".join(repeated)),
    }


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to compile, and for which slice."""

    presets: tuple[str, ...] = ("sudoku", "sudoku-attention", "gpt2")
    """Presets, one after the other."""

    meshes: tuple[tuple[int, int], ...] = ((32, 1), (16, 2))
    """Sizes of the (data, model) axes, one mesh after the other."""

    batch_size: int = 6144
    """Puzzles of a step, over all chips."""

    sequences: int = 512
    """Sequences of a step of a GPT, over all chips."""

    kernel: Literal["splash", "xla"] = "splash"
    """Attention of a GPT."""

    unroll: int = 1
    """Blocks of a GPT compiled in a row."""

    accumulation: tuple[int, ...] = (1, 2, 4, 8)
    """Slices of the batch, tried in turn until the step fits."""

    topology: str = "v4:4x4x2"
    """The slice, by its chips: v4-64 is 4x4x2."""

    out: Path | None = None
    """JSON file. None: `benchmarks/results/tpu_v4-<cores>_compile.json`."""

    add: bool = False
    """Keep what the file says of other cases."""


def make_config(
    preset: str, mesh: Mesh, slices: int, settings: Settings
) -> tuple[TrainTRM | TrainGPT, dict[str, Any]]:
    """A run, and what tells its row of the results from another."""
    case: dict[str, Any] = {"preset": preset, "mesh": dict(mesh.shape)}
    if preset in TRM_PRESETS:
        sizes = {"batch_size": settings.batch_size, "accumulation": slices}
        return replace(TRM_PRESETS[preset][1], **sizes), case | sizes
    config, size = GPT_PRESETS[preset][1], settings.sequences
    case |= {"kernel": settings.kernel, "unroll": settings.unroll}
    config = replace(
        config,
        batch_size=size,
        microbatch_size=max(size // mesh.size // slices, 1),
        model=replace(config.model, unroll=settings.unroll),
    )
    return config, case | {"batch_size": size, "accumulation": slices}


def run_case(preset: str, mesh: Mesh, settings: Settings) -> list[dict[str, Any]]:
    """The tries with ever more slices until one fits, as they are printed."""
    kernel = "xla" if preset in TRM_PRESETS else settings.kernel
    tries = []
    for slices in settings.accumulation:
        config, case = make_config(preset, mesh, slices, settings)
        facts: dict[str, Any]
        try:
            facts = compile_facts(config, mesh, kernel)
            facts["fits"] = facts["peak_memory_bytes"] <= HBM
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            facts = {"fits": False, "error": str(error).split("\n", 1)[0]}
        tries.append(case | facts)
        print(json.dumps(tries[-1]), flush=True)
        if facts["fits"]:
            break
    return tries


def added(older: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """An older record with the rows of a new one, which say when they were made.

    Raises:
        ValueError: if the two are of different versions.
    """
    require(
        older["versions"] == record["versions"],
        f"Rows can be added to a file of the same versions only: got "
        f"{record['versions']}, it has {older['versions']}. Leave out `--add`.",
    )
    names = ("preset", "mesh", "kernel", "unroll", "batch_size")  # all but the slices
    case = lambda row: [row.get(name) for name in names]
    rows = [row | {"date": record["date"]} for row in record["results"]]
    replaced = [case(row) for row in rows]
    kept = [row for row in older["results"] if case(row) not in replaced]
    return older | {"results": kept + rows}


def main(settings: Settings) -> None:
    """Compile all cases and write one JSON file."""
    jax.config.update("jax_platforms", "cpu")
    meshes = [slice_mesh(*sizes, settings.topology) for sizes in settings.meshes]
    given = {k: v for k, v in asdict(settings).items() if k not in ("out", "add")}
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": machine.cpu_model(),
        "versions": machine.versions("libtpu"),
        "settings": given,
        "hbm_bytes": int(HBM),
        "results": [
            row
            for mesh in meshes
            for preset in settings.presets
            for row in run_case(preset, mesh, settings)
        ],
    }
    name = f"tpu_v4-{2 * meshes[-1].size}_compile.json"
    out = settings.out or machine.RESULTS / name
    if settings.add and out.exists():
        record = added(json.loads(out.read_text()), record)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"Written to {out.name}.")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
