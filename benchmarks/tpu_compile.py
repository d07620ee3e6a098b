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
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh
from jaxtyping import PyTree

from benchmarks import machine
from benchmarks.tpu_lower import lower_step
from configs import GPT_PRESETS, TRM_PRESETS, TrainGPT, TrainTRM, require
from train.mesh import AXES

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

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)


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


def bytes_on_a_chip(tree: PyTree) -> int:
    """Bytes that each device holds of sharded shapes, without the device's padding."""
    return sum(
        prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def computations(hlo: str) -> dict[str, str]:
    """The bodies of a compiled program's computations, by name."""
    found = re.finditer(r"^(?:ENTRY )?%(\S+) \(.*?\{\n(.*?)^\}", hlo, re.M | re.S)
    return {match[1]: match[2] for match in found}


def collectives(hlo: str) -> dict[str, int]:
    """How often each kind of collective stands in a compiled program."""
    names = "|".join(COLLECTIVES)
    return dict(Counter(re.findall(rf" ({names})(?:-start)?\(", hlo)))


def loops(hlo: str) -> list[str]:
    """For each loop of a compiled program, the text of all that it repeats."""
    bodies = computations(hlo)

    def repeated(first: str) -> str:
        names = [first]
        for name in names:  # grows
            called = dict.fromkeys(re.findall(r"%([\w.\-]+)", bodies[name]))
            names += [n for n in called if n in bodies and n not in names]
        return "\n".join(bodies[name] for name in names)

    return [repeated(n) for n in re.findall(r" while\(.*?body=%([\w.\-]+)", hlo)]


def aliased_inputs(hlo: str) -> int:
    """How many inputs of a compiled program are overwritten by its outputs."""
    return len(re.findall(r"(?:may|must)-alias", hlo.split("\n", 1)[0]))


def compile_facts(
    config: TrainTRM | TrainGPT, mesh: Mesh, kernel: str = "splash"
) -> dict[str, Any]:
    """Seconds to lower and compile a step; its memory on a chip; its collectives."""
    start = time.perf_counter()
    lowered, state = lower_step(config, mesh, kernel)
    middle = time.perf_counter()
    compiled = lowered.compile()
    facts: dict[str, Any] = {
        "lower_s": round(middle - start, 1),
        "compile_s": round(time.perf_counter() - middle, 1),
    }
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None
    assert hlo is not None
    for name in ("peak_memory", "argument_size", "output_size", "alias_size"):
        facts[f"{name}_bytes"] = getattr(memory, f"{name}_in_bytes")
    facts["temp_size_bytes"] = memory.temp_size_in_bytes
    facts["code_bytes"] = memory.generated_code_size_in_bytes
    facts["state_bytes"] = bytes_on_a_chip(state)
    facts["state_arrays"] = len(jax.tree.leaves(state))
    facts["aliased_arrays"] = aliased_inputs(hlo)
    facts["pallas_calls"] = hlo.count('custom_call_target="tpu_custom_call"')
    facts["collectives"] = collectives(hlo)
    repeated = loops(hlo)
    facts["loops"] = len(repeated)
    facts["collectives_in_loops"] = collectives("\n".join(repeated))
    return facts


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

    def case(self, preset: str, mesh: Mesh, slices: int) -> dict[str, Any]:
        """What tells one row of the results from another."""
        shared = {"preset": preset, "mesh": dict(mesh.shape)}
        if preset in TRM_PRESETS:
            return shared | {"batch_size": self.batch_size, "accumulation": slices}
        return shared | {
            "kernel": self.kernel,
            "unroll": self.unroll,
            "batch_size": self.sequences,
            "accumulation": slices,
        }

    def config(self, preset: str, mesh: Mesh, slices: int) -> TrainTRM | TrainGPT:
        """The run of a row."""
        if preset in TRM_PRESETS:
            sizes = {"batch_size": self.batch_size, "accumulation": slices}
            return replace(TRM_PRESETS[preset][1], **sizes)
        config = GPT_PRESETS[preset][1]
        return replace(
            config,
            batch_size=self.sequences,
            microbatch_size=max(self.sequences // mesh.size // slices, 1),
            model=replace(config.model, unroll=self.unroll),
        )


def run_case(preset: str, mesh: Mesh, settings: Settings) -> list[dict[str, Any]]:
    """Compile with ever more slices until one fits; prints and returns all tries."""
    tries = []
    for slices in settings.accumulation:
        config = settings.config(preset, mesh, slices)
        facts: dict[str, Any]
        try:
            facts = compile_facts(config, mesh, settings.kernel)
            facts["fits"] = facts["peak_memory_bytes"] <= HBM
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            facts = {"fits": False, "error": str(error).split("\n", 1)[0]}
        tries.append(settings.case(preset, mesh, slices) | facts)
        print(json.dumps(tries[-1]), flush=True)
        if facts["fits"]:
            break
    return tries


CASE = ("preset", "mesh", "kernel", "unroll", "batch_size")
"""What tells one case of the results from another, but for the slices it took."""


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
    case = lambda row: [row.get(name) for name in CASE]
    rows = [row | {"date": record["date"]} for row in record["results"]]
    replaced = [case(row) for row in rows]
    kept = [row for row in older["results"] if case(row) not in replaced]
    return older | {"results": kept + rows}


def main(settings: Settings) -> None:
    """Compile all cases and write one JSON file."""
    jax.config.update("jax_platforms", "cpu")
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": machine.cpu_model(),
        "versions": {**machine.versions(), "libtpu": version("libtpu")},
        "settings": {
            k: v for k, v in asdict(settings).items() if k not in ("out", "add")
        },
        "hbm_bytes": int(HBM),
        "results": [],
    }
    chips = 1
    for sizes in settings.meshes:
        mesh = slice_mesh(*sizes, settings.topology)
        chips = mesh.size
        for preset in settings.presets:
            record["results"] += run_case(preset, mesh, settings)
    name = f"tpu_v4-{2 * chips}_compile.json"
    out = settings.out or Path(__file__).parent / "results" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    if settings.add and out.exists():
        record = added(json.loads(out.read_text()), record)
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"Written to {out.name}.")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
