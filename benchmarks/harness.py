"""Time programs in turns, and write medians and ratios to a file.

Imports neither JAX nor PyTorch, because `open_bench` must run before they do.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from benchmarks import machine
from train.cli import keep_freed_memory

Record = dict[str, Any]
"""A JSON object: one case, or all."""

Rates = Mapping[str, Callable[[float], float]]
"""Numbers that follow from the milliseconds of a step, by name."""


@dataclass(frozen=True, kw_only=True)
class DeviceSettings:
    """Settings of the device. A benchmark adds its own; its paths are checkouts."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type. `auto`: float32 on a CPU, bfloat16 on a GPU."""

    repeats: int = 30
    """Timed blocks of each program."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: the GPU if there is one."""

    core: int | None = None
    """Core to pin to on a CPU. None: the last one allowed."""

    out: Path | None = None
    """JSON file. None: `benchmarks/results/<benchmark>-<device>.json`."""


@dataclass(frozen=True)
class Bench:
    """The device of a benchmark."""

    kind: machine.Kind
    core: int | None
    """The core that the process is pinned to, if it is."""

    precision: machine.Precision

    @property
    def torch_device(self) -> str:
        """Return PyTorch's name of the device."""
        return "cpu" if self.kind == "cpu" else "cuda"

    @property
    def block(self) -> int:
        """Steps between two waits, so that a fast device stays busy."""
        return 1 if self.kind == "cpu" else 5


def open_bench(settings: DeviceSettings) -> Bench:
    """Pin this process to the device, and return the device."""
    kind = machine.detect() if settings.device == "auto" else settings.device
    core = machine.hold(kind, settings.core)
    if kind == "cpu":
        keep_freed_memory()  # as our runs do; it holds for PyTorch too
    precision = settings.precision
    if precision == "auto":
        precision = "float32" if kind == "cpu" else "bfloat16"
    return Bench(kind, core, precision)


def provenance(bench: Bench, settings: DeviceSettings, *packages: str) -> Record:
    """Return date, device, versions and settings, with checkouts by their commit.

    Versions of `packages` are added where they are installed.
    """
    import jax

    given = asdict(settings)
    del given["out"]
    record = {
        **machine.about(*packages),
        "commit": machine.commit(Path(__file__).parent),
        "device": jax.devices()[0].device_kind,
        "pinned_to_one_core": bench.core is not None,
        "settings": {
            k: machine.commit(v) if isinstance(v, Path) else v for k, v in given.items()
        },
    }
    print(f"{record['device']}, {record['cpu']}: {json.dumps(record['versions'])}")
    return record


def write(name: str, record: Record, out: Path | None) -> None:
    """Write a benchmark's results; to the folder of results if `out` is None."""
    device = re.sub(r"[^a-z0-9]+", "-", record["device"].lower()).strip("-")
    out = out or machine.RESULTS / f"{name}-{device}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1, default=str) + "\n")
    print(f"\nWritten to {out.name}.")


# -- timing ----------------------------------------------------------------------------


class Program(Protocol):
    """A program to be timed."""

    name: str

    def prepare(self, steps: int) -> None:
        """Prepare the input of `steps` steps, untimed."""

    def step(self) -> None:
        """Make one step, which may still run on the device when this returns."""

    def wait(self) -> None:
        """Return when all steps are done."""


Block = tuple[float, float]
"""Wall milliseconds a step, and those of this process's own processor time."""


def time_block(program: Program, steps: int) -> Block:
    """Return the times of `steps` steps; waits once, at their end."""
    program.prepare(steps)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        program.step()
    program.wait()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return 1e3 * wall / steps, 1e3 * cpu / steps


def interleave(
    programs: Sequence[Program], *, warmup: int, repeats: int, steps: int
) -> list[list[Block]]:
    """Time blocks of the programs in turns, so that disturbances hit all of them.

    Each program first makes `warmup` steps, at least 2: the second step may compile
    again if the layout of its state differs.
    """
    for program in programs:
        time_block(program, max(warmup, 2))
    turns = [[time_block(p, steps) for p in programs] for _ in range(repeats)]
    return [list(blocks) for blocks in zip(*turns, strict=True)]


def make_rows(
    programs: Sequence[Program], samples: Sequence[list[Block]], rates: Rates
) -> Record:
    """Return medians, spread and rates of each program, by its name.

    `aa` is the median of the even blocks over the median of the odd blocks; a ratio
    closer to 1 than `aa` is noise. `ratio` is the time over the first program's time:
    above 1 the first is faster.
    """
    rows: Record = {}
    for program, blocks in zip(programs, samples, strict=True):
        wall = np.array([block[0] for block in blocks])
        low, median, high = map(float, np.percentile(wall, (10, 50, 90)))
        odd = wall[1::2] if wall.size > 1 else wall
        rows[program.name] = {
            "ms": median,
            "ms_p10": low,
            "ms_p90": high,
            "ms_min": float(wall.min()),
            "cpu_ms": float(np.median([block[1] for block in blocks])),
            "aa": float(np.median(wall[::2]) / np.median(odd)),
            **{name: rate(median) for name, rate in rates.items()},
            "samples_ms": wall.tolist(),
        }
    ours, *others = rows.values()
    for row in others:
        row["ratio"] = row["ms"] / ours["ms"]
        row["cpu_ratio"] = row["cpu_ms"] / ours["cpu_ms"]
    return rows


def show(rows: Record) -> None:
    """Print rows as the columns of a table, without the samples."""
    print(f"  {'':16s}" + "".join(f"{name:>20s}" for name in rows))
    names = dict.fromkeys(name for row in rows.values() for name in row)
    del names["samples_ms"]
    for name in names:
        cells = (row.get(name, "") for row in rows.values())
        text = (f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells)
        print(f"  {name:16s}" + "".join(f"{cell:>20s}" for cell in text), flush=True)
