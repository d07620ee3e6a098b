"""How fast a run is: operations a second against the devices' peak, memory."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh

Values = dict[str, float | None]
Rates = Callable[[float], Values]
"""From the examples a second of training to what else to report of it."""

PEAKS = {
    # Dense bfloat16 (V100: float16) in TFLOP/s, from the makers' data sheets; the first
    # name found in the device's own counts. On a TPU v2 and v3 a device is one core.
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "TPU v2": 22.5,
    "TPU v3": 61.5,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5": 459.0,
    "TPU v6": 918.0,
}


def peak_flops(device_kind: str) -> float | None:
    """Operations a second of a device, or None if it is not in the table."""
    for name, tera in PEAKS.items():
        if name in device_kind:
            return tera * 1e12
    return None


def throughput(
    mesh: Mesh, examples: float, *, flops: int | None, tokens: int | None = None
) -> Values:
    """Return tokens a second of text, and the MFU where the devices' peak is known.

    MFU is the share of the peak in bfloat16, whatever type a run computes in. Work that
    is repeated to save memory counts once.

    Args:
        mesh: the devices.
        examples: a second.
        flops: of an example, forward and backward; None if examples differ.
        tokens: of an example; None where examples are not counted by tokens.
    """
    peak, values = peak_flops(mesh.devices.flat[0].device_kind), Values()
    if tokens is not None:
        values["tokens_per_second"] = examples * tokens
    if peak is not None and flops is not None:
        values["mfu"] = examples * flops / (peak * mesh.size)
    return values


def memory() -> Values:
    """Bytes in use and their peak, of this process's fullest device.

    Nothing where the backend does not tell, as on a CPU.
    """
    told = [device.memory_stats() or {} for device in jax.local_devices()]
    names = {"memory_bytes": "bytes_in_use", "memory_peak_bytes": "peak_bytes_in_use"}
    return {
        ours: float(max(stats[theirs] for stats in told))
        for ours, theirs in names.items()
        if all(theirs in stats for stats in told)
    }
