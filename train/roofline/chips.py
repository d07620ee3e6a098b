"""Chips that can be rented: slices by name, and what a chip can do at best."""

import os
import re
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
from jax.experimental import topologies

from configs import require

LIBTPU = {
    # Any valid slice: else libtpu asks the cloud's metadata server for one.
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",
    # Compiling takes no chip, so several processes may do it at once.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True, kw_only=True)
class Chip:
    """What a device can do at best; its operations stand in `train/watch/speed.py`."""

    memory: int
    """GB/s between the chip and its memory."""

    network: int | None = None
    """GB/s that a chip sends to its neighbours, over all links; None if not told."""

    usable: float | None = None
    """GiB of its memory that a program may use, where the device itself does not say:
    as libtpu does on refusing a program."""


CHIPS = {
    # TPUs: cloud.google.com/tpu/docs/v4, v5p and v6e (which has v5e beside it); links
    # of v4 as six of 400 Gbit/s. GPUs: NVIDIA's data sheets, of NVLink one direction.
    "TPU v4": Chip(memory=1228, network=300, usable=30.75),
    "TPU v5 lite": Chip(memory=800, network=200, usable=15.75),
    "TPU v5": Chip(memory=2765, network=600, usable=95.74),
    "TPU v6": Chip(memory=1600, network=400, usable=31.25),
    "H200": Chip(memory=4800, network=450),
    "H100 PCIe": Chip(memory=2000),
    "H100": Chip(memory=3350, network=450),
    "A100": Chip(memory=2039, network=300),
    "L40S": Chip(memory=864),
}
"""By a part of the device's own name; the first that fits counts."""


def chip_of(device_kind: str) -> Chip | None:
    """What a device can do, or None if it is not in the table."""
    return next((c for name, c in CHIPS.items() if name in device_kind), None)


GENERATIONS = {"v4": 3, "v5p": 3, "v5e": 2, "v5litepod": 2, "v6e": 2}
"""Axes of a slice."""

CORES = {"v4": 2, "v5p": 2}
"""Where a slice is named by its cores, of which two make a device (megacore)."""


def slice_devices(name: str) -> list[Any]:
    """The devices of a TPU slice that need not be here; of `here`, those that are.

    Args:
        name: as Google names it (`v4-64`, `v5e-16`), or by its chips (`v4:4x4x2`).

    Raises:
        UserError: if there is no such slice, or no libtpu.
    """
    if name == "here":
        return jax.devices()
    found = re.fullmatch(r"(\w+?)(?:-(\d+)|:(\d+(?:x\d+)*))", name)
    require(
        found is not None and found[1] in GENERATIONS,
        f"A slice must be named as `v4-64`, `v5e-16`, `v5p-128`, `v6e-8` or, by its "
        f"chips, `v4:4x4x2`; or be `here`: got `{name}`.",
    )
    assert found is not None
    kind, shape = found[1], found[3] or _shape(found[1], int(found[2]))
    for variable, value in LIBTPU.items():
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = {}
    if kind in CORES:
        options["chip_config_name"] = "megacore"
    if prod(map(int, shape.split("x"))) < 4:
        options["chips_per_host_bounds"] = (1, 1, 1)
    kind = {"v5litepod": "v5e"}.get(kind, kind)
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{kind}:{shape}", **options
        )
    except Exception as error:
        missing = "not installed" in str(error) or "libtpu" in str(error).lower()
        advice = (
            "It needs libtpu, but no TPU: `pip install -e '.[tpu]'`."
            if missing
            else "Name another."
        )
        reason = str(error).strip().splitlines()[0]
        require(
            False, f"A slice must be known to libtpu: `{name}` ({reason}). {advice}"
        )
        raise
    return list(described.devices)


def _shape(kind: str, number: int) -> str:
    """The chips of a slice along each axis, as near to a cube as powers of two go."""
    chips, cores = number // CORES.get(kind, 1), CORES.get(kind, 1)
    require(
        chips > 0 and chips & (chips - 1) == 0 and number % cores == 0,
        f"A slice named by a number must have a power of two of chips: got "
        f"`{kind}-{number}`. Name its chips, as `{kind}:"
        f"{'4x4x4' if GENERATIONS[kind] == 3 else '4x4'}`.",
    )
    sizes, axes = [1] * GENERATIONS[kind], GENERATIONS[kind]
    for power in range(chips.bit_length() - 1):
        sizes[power % axes] *= 2
    # Two chips of each host lie along the first axis, two along the second.
    return "x".join(map(str, sizes if axes == 3 else sorted(sizes)))
