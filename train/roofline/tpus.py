"""TPU slices that are not here, by name."""

import os
import re
from math import prod
from typing import Any

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

AXES = {"v4": 3, "v5p": 3, "v5e": 2, "v5litepod": 2, "v6e": 2}
"""Number of axes of a slice, by generation."""

CORES = {"v4": 2, "v5p": 2}
"""Cores of a chip, for generations whose slices are named by cores (megacore)."""

SLICE = re.compile(rf"({'|'.join(AXES)})(?:-(\d+)|:(\d+(?:x\d+)*))")
"""Google's name (`v4-64`, `v5e-16`), or one by chips (`v4:4x4x2`)."""


def slice_devices(name: re.Match[str]) -> list[Any]:
    """Return the devices of a TPU slice, for compiling only; no TPU is needed.

    Args:
        name: a match of `SLICE`.

    Raises:
        UserError: if the slice does not exist, or libtpu is missing.
    """
    kind, shape = name[1], name[3] or _shape(name[1], int(name[2]))
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
            f"libtpu cannot describe the slice `{name[0]}`: {reason}. {remedy}."
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
