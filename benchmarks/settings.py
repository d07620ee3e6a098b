"""Settings that all comparisons with another code have, and what they mean here.

Imports neither JAX nor PyTorch: `open_bench` must run before they are imported.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks import machine

Precision = Literal["float32", "bfloat16"]
"""A compute type."""


@dataclass(frozen=True, kw_only=True)
class DeviceSettings:
    """Where to time. A benchmark adds what to time."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type. `auto`: float32 on a CPU, bfloat16 on a GPU."""

    repeats: int = 30
    """Timed blocks of each arm."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: the GPU if there is one."""

    core: int | None = None
    """Core to pin to on a CPU. None: the last one allowed."""

    out: Path | None = None
    """JSON file. None: `benchmarks/results/<benchmark>-<device>.json`."""


@dataclass(frozen=True, kw_only=True)
class StepSettings(DeviceSettings):
    """Where to time a step, and how long."""

    block: int = 0
    """Steps in a block, waited for at its end. 0: 1 on a CPU, 5 on a GPU."""

    warmup: int = 10
    """Steps of each arm before timing."""

    compile: Literal["auto", "yes", "no"] = "auto"
    """Also time the other code's step under torch.compile. `auto`: on a GPU."""

    tolerance: float = 1e-3
    """Largest relative difference of what must agree, in float32."""

    def steps(self, kind: machine.Kind) -> int:
        """Steps of a timed block."""
        return self.block or (1 if kind == "cpu" else 5)

    def compiled(self, kind: machine.Kind) -> bool:
        """Whether torch.compile is timed too."""
        return self.compile == "yes" or (self.compile == "auto" and kind == "gpu")


@dataclass(frozen=True)
class Bench:
    """The device at hand."""

    kind: machine.Kind
    core: int | None
    """The core that the process is pinned to, if it is."""

    precision: Precision

    @property
    def torch_device(self) -> str:
        """PyTorch's name of the device."""
        return "cpu" if self.kind == "cpu" else "cuda"


def open_bench(settings: DeviceSettings) -> Bench:
    """Find the device and hold this process to it; call it before JAX is imported."""
    kind = machine.detect() if settings.device == "auto" else settings.device
    auto = "float32" if kind == "cpu" else "bfloat16"
    precision = auto if settings.precision == "auto" else settings.precision
    return Bench(kind, machine.hold(kind, settings.core), precision)
