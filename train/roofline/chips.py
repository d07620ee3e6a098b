"""TPU slices by name, and the limits of each chip."""

import os
import re
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
from jax.experimental import topologies

from configs import UserError, require

LIBTPU = {
    # Any valid slice: otherwise libtpu requests one from the cloud's metadata server.
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",
    # Compiling takes no chip, so several processes may do it at once.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True, kw_only=True)
class Chip:
    """The limits of a device; its operations a second are in `train/watch/speed.py`."""

    memory: int
    """GB/s between the chip and its memory."""

    clock: float | None = None
    """GHz, for a TPU."""

    network: int | None = None
    """GB/s that a chip sends to its neighbors, over all links; None if unpublished."""

    usable: float | None = None
    """GiB of memory that a program may use, from libtpu's refusals; None if the device
    reports it."""


CHIPS = {
    # TPUs: cloud.google.com/tpu/docs/v4, v5p and v6e (which has v5e beside it); links
    # of v4 as six of 400 Gbit/s. Clocks: the peak over the operations that the matrix
    # units make in a cycle (v4 and v5p: 8 of 128 x 128, v5e: 4, v6e: 2 of 256 x 256).
    # GPUs: NVIDIA's data sheets, of NVLink one direction.
    "TPU v4": Chip(memory=1228, clock=1.05, network=300, usable=30.75),
    "TPU v5 lite": Chip(memory=800, clock=1.5, network=200, usable=15.75),
    "TPU v5": Chip(memory=2765, clock=1.75, network=600, usable=95.74),
    "TPU v6": Chip(memory=1600, clock=1.75, network=400, usable=31.25),
    "H200": Chip(memory=4800, network=450),
    "H100 PCIe": Chip(memory=2000),
    "H100": Chip(memory=3350, network=450),
    "A100": Chip(memory=2039, network=300),
    "L40S": Chip(memory=864),
}
"""By a part of the device's name; the first match counts."""


def chip_of(device_kind: str) -> Chip | None:
    """Return the limits of a device; None if it is not in the table."""
    return next((c for name, c in CHIPS.items() if name in device_kind), None)


AXES = {"v4": 3, "v5p": 3, "v5e": 2, "v5litepod": 2, "v6e": 2}
"""Number of axes of a slice, by generation."""

CORES = {"v4": 2, "v5p": 2}
"""Cores of a chip, for generations whose slices are named by cores (megacore)."""


def slice_devices(name: str) -> list[Any]:
    """Return the devices of a TPU slice, for compiling only; no TPU is needed.

    Args:
        name: Google's name (`v4-64`, `v5e-16`), or one by chips (`v4:4x4x2`). `here`:
            the devices of this machine.

    Raises:
        UserError: if the slice does not exist, or libtpu is missing.
    """
    if name == "here":
        return jax.devices()
    match = re.fullmatch(r"(\w+?)(?:-(\d+)|:(\d+(?:x\d+)*))", name)
    if match is None or match[1] not in AXES:
        raise UserError(
            "A slice must be named like `v4-64`, `v5e-16`, `v5p-128`, `v6e-8` or, by "
            f"its chips, `v4:4x4x2`, or be `here`: got `{name}`."
        )
    kind, shape = match[1], match[3] or _shape(match[1], int(match[2]))
    for variable, value in LIBTPU.items():
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = {}
    if kind in CORES:
        options["chip_config_name"] = "megacore"
    if prod(map(int, shape.split("x"))) < 4:
        options["chips_per_host_bounds"] = (1, 1, 1)
    topology = f"{'v5e' if kind == 'v5litepod' else kind}:{shape}"
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        missing = "not installed" in str(error) or "libtpu" in str(error).lower()
        remedy = "Use another"
        if missing:
            remedy = "Install libtpu: `pip install -e '.[tpu]'`"
        raise UserError(
            f"libtpu cannot describe the slice `{name}`: {reason}. {remedy}."
        ) from error
    return list(described.devices)


def _shape(kind: str, number: int) -> str:
    """Return the chips of a slice along each axis, as close to a cube as possible."""
    cores, axes = CORES.get(kind, 1), AXES[kind]
    chips = number // cores
    require(
        chips > 0 and chips & (chips - 1) == 0 and number % cores == 0,
        "A slice named by a number must have a power of two of chips: got "
        f"`{kind}-{number}`. Name its chips, like `{kind}:"
        f"{'x'.join('4' * axes)}`.",
    )
    sizes = [1] * axes
    for power in range(chips.bit_length() - 1):
        sizes[power % axes] *= 2
    # Two chips of each host are on the first axis, two on the second.
    return "x".join(map(str, sizes if axes == 3 else sorted(sizes)))
