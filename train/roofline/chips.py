"""The limits of each chip."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Die:
    """Facts of an NVIDIA GPU that its compiler needs."""

    capability: str
    """Compute capability."""

    cores: int
    """Streaming multiprocessors."""

    clock: float
    """GHz, boosted."""

    cache: int
    """MiB of L2 cache."""


@dataclass(frozen=True, kw_only=True)
class Chip:
    """The limits of a device; its operations a second are in `train/watch/speed.py`."""

    memory: int
    """GB/s between the chip and its memory."""

    clock: float | None = None
    """GHz of a TPU."""

    network: int | None = None
    """GB/s that a chip sends to its neighbors, over all links; None without such links.
    """

    capacity: float
    """GiB of memory: what libtpu lets a program use (from its refusals), or what CUDA
    reports of a GPU."""

    die: Die | None = None
    """None for a TPU."""


CHIPS = {
    # TPUs: cloud.google.com/tpu/docs/v4, v5p and v6e (which has v5e beside it); links
    # of v4 as six of 400 Gbit/s. Clocks: the peak over the operations that the matrix
    # units make in a cycle (v4 and v5p: 8 of 128 x 128, v5e: 4, v6e: 2 of 256 x 256).
    "TPU v4": Chip(memory=1228, clock=1.05, network=300, capacity=30.75),
    "TPU v5 lite": Chip(memory=800, clock=1.5, network=200, capacity=15.75),
    "TPU v5": Chip(memory=2765, clock=1.75, network=600, capacity=95.74),
    "TPU v6": Chip(memory=1600, clock=1.75, network=400, capacity=31.25),
    # GPUs: NVIDIA's data sheets, of NVLink one direction. The A100 is the one of 80 GB.
    "B200": Chip(
        memory=7700, network=900, capacity=178.4, die=Die("10.0", 148, 1.97, 126)
    ),
    "H200": Chip(
        memory=4800, network=450, capacity=141.0, die=Die("9.0", 132, 1.98, 50)
    ),
    "H100 PCIe": Chip(memory=2000, capacity=79.1, die=Die("9.0", 114, 1.76, 50)),
    "H100": Chip(
        memory=3350, network=450, capacity=79.1, die=Die("9.0", 132, 1.98, 50)
    ),
    "A100": Chip(
        memory=2039, network=300, capacity=79.2, die=Die("8.0", 108, 1.41, 40)
    ),
    "L40S": Chip(memory=864, capacity=44.4, die=Die("8.9", 142, 2.52, 96)),
    "RTX 5090": Chip(memory=1792, capacity=31.3, die=Die("12.0", 170, 2.41, 96)),
    "RTX 4090": Chip(memory=1008, capacity=23.6, die=Die("8.9", 128, 2.52, 72)),
}
"""By a part of the device's name; the first match counts."""


def chip_of(device_kind: str) -> Chip | None:
    """Return the limits of a device; None if it is not in the table."""
    return next((c for name, c in CHIPS.items() if name in device_kind), None)
