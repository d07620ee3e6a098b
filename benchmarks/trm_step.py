"""Time our TRM train step against the official one: `python -m benchmarks.trm_step`.

Same weights, same boards; what both compute is compared before anything is timed. On a
machine without a GPU the process is pinned to one core and computes in float32.

Examples:
    python -m benchmarks.trm_step
    python -m benchmarks.trm_step --official ../TinyRecursiveModels --batch-size 2 4
"""

if not __package__:
    raise SystemExit("Run it from the project's root: python -m benchmarks.trm_step")

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from benchmarks import machine, session
from benchmarks.settings import Bench, StepSettings
from benchmarks.compare import Round, play
from benchmarks.table import per_second, tflops

if TYPE_CHECKING:
    from benchmarks.cases import Case

BATCHES = 8
"""Different batches, which come in turns."""


@dataclass(frozen=True, kw_only=True)
class Settings(StepSettings):
    """What to time, and how long."""

    official: Path | None = None
    """Checkout of the official PyTorch code. None: only our step is timed."""

    mixers: tuple[Literal["attention", "mlp"], ...] = ("attention", "mlp")
    """Token mixers, one after the other."""

    dim: int = 512
    """Width of the model."""

    heads: int = 8
    """Attention heads."""

    H_cycles: int = 3
    """Deep-recursion cycles."""

    L_cycles: int = 6
    """Refinements in a cycle."""

    batch_size: tuple[int, ...] = ()
    """Batch sizes, one after the other. Default: 4 on a CPU, 768 on a GPU."""

    def batch_sizes(self, kind: machine.Kind) -> tuple[int, ...]:
        """Batch sizes to time."""
        return self.batch_size or ((4,) if kind == "cpu" else (768,))


def cases(settings: Settings, bench: Bench) -> "list[Case]":
    """All cases, in the order of their turns."""
    from benchmarks.cases import Case

    return [
        Case(
            mixer=mixer,
            dim=settings.dim,
            heads=settings.heads,
            H_cycles=settings.H_cycles,
            L_cycles=settings.L_cycles,
            batch_size=batch_size,
            precision=bench.precision,
        )
        for mixer in settings.mixers
        for batch_size in settings.batch_sizes(bench.kind)
    ]


def make_round(case: "Case", checkout: Path | None, device: str) -> Round:
    """A case, and how to build its arms; `device` is PyTorch's."""
    from benchmarks.our_trm import OurStep
    from benchmarks.cases import step_flops

    def theirs(compiled: bool) -> Any:
        from benchmarks.official_trm import OfficialStep

        assert checkout is not None
        return OfficialStep(case, checkout, device, compiled=compiled, batches=BATCHES)

    flops = step_flops(case) * case.batch_size
    return Round(
        title=f"{case.mixer}, batch {case.batch_size}, {case.precision}",
        case=case,
        more={"flops": flops},
        rates=(
            per_second("examples", "ex/s", case.batch_size, digits=2),
            tflops(flops),
        ),
        reference="official",
        ours=lambda weights: OurStep(case, weights, batches=BATCHES),
        theirs=theirs if checkout is not None else None,
        must_agree=("lm_loss", "q_halt_loss"),
    )


def main(settings: Settings) -> None:
    """Run all cases, print their tables, write one JSON file."""
    checkout = settings.official

    def results(bench: Bench) -> Iterator[session.Record]:
        for case in cases(settings, bench):
            match = make_round(case, checkout, bench.torch_device)
            yield play(match, settings, bench)

    def told(bench: Bench) -> session.Record:
        return {
            "official": None if checkout is None else machine.commit(checkout),
            "batch_size": settings.batch_sizes(bench.kind),
            "block": settings.steps(bench.kind),
        }

    session.run("trm_step", settings, results, told, packages=("adam-atan2",))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
