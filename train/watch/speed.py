"""Speed and memory of a run."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh

Values = dict[str, float | None]
Rates = Callable[[float], Values]
"""From examples a second to the other rates that are logged."""

PEAKS = {
    # Dense bfloat16 (V100, T4: float16) in TFLOP/s, from the makers' data sheets. The
    # first name that is part of the device's counts. A device of a TPU v2 or v3 is one
    # core.
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "T4": 65.0,
    "TPU v2": 22.5,
    "TPU v3": 61.5,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5": 459.0,
    "TPU v6": 918.0,
}


def peak_flops(device_kind: str) -> float | None:
    """Return the peak operations a second of a device; None if unknown."""
    for name, tera in PEAKS.items():
        if name in device_kind:
            return tera * 1e12
    return None


def throughput(
    mesh: Mesh, examples: float, *, flops: int | None, tokens: int | None = None
) -> Values:
    """Return tokens a second of text, and the MFU where the devices' peak is known.

    MFU is the share of the peak in bfloat16, whatever the compute type. Work that is
    repeated to save memory counts once.

    Args:
        mesh: the devices.
        examples: per second.
        flops: operations per example, forward and backward; None if examples differ.
        tokens: tokens per example; None for no rate of tokens.
    """
    peak, values = peak_flops(mesh.devices.flat[0].device_kind), Values()
    if tokens is not None:
        values["tokens_per_second"] = examples * tokens
    if peak is not None and flops is not None:
        values["mfu"] = examples * flops / (peak * mesh.size)
    return values


def memory() -> Values:
    """Return bytes in use and their peak, of this process's fullest device.

    Return nothing if the backend has no such statistics, as on a CPU.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    names = {"memory_bytes": "bytes_in_use", "memory_peak_bytes": "peak_bytes_in_use"}
    return {
        name: float(max(device[key] for device in stats))
        for name, key in names.items()
        if all(key in device for device in stats)
    }
