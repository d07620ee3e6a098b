"""Devices by name, of this machine or not."""

from typing import Any

import jax

from configs import UserError
from train.roofline.gpus import GPUS, NAMES, gpu_devices
from train.roofline.tpus import SLICE, slice_devices


def devices_of(name: str) -> list[Any]:
    """Return the devices with a name.

    Args:
        name: `here`: those of this machine. Otherwise a TPU slice (`v4-64`) or GPUs
            (`h200`, `h200-8`), for compiling only.

    Raises:
        UserError: if there are no such devices, or their compiler is missing.
    """
    if name == "here":
        return jax.devices()
    if match := SLICE.fullmatch(name):
        return slice_devices(match)
    if match := GPUS.fullmatch(name):
        return gpu_devices(match)
    raise UserError(
        "A topology must be a TPU slice, named like `v4-64`, `v5e-16`, `v5p-128`, "
        f"`v6e-8` or, by its chips, `v4:4x4x2`; or one of the GPUs {', '.join(NAMES)}, "
        f"or several, like `h200-8`; or `here`: got `{name}`."
    )
