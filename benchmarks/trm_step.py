"""Time our TRM train step against the official one: `python -m benchmarks.trm_step`.

Weights and boards are the same; results are compared before timing. Without a GPU the
process is pinned to one core and computes in float32.

Examples:
    python -m benchmarks.trm_step
    python -m benchmarks.trm_step --official ../TinyRecursiveModels --batch-size 2 4
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.cases import trm_config
from benchmarks.compare import Comparison, StepSettings, run_comparison, step_rates
from benchmarks.harness import Bench, open_bench, provenance, write


@dataclass(frozen=True, kw_only=True)
class Settings(StepSettings):
    """Settings of the benchmark."""

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


def make_comparison(
    mixer: Literal["attention", "mlp"],
    batch_size: int,
    settings: Settings,
    bench: Bench,
) -> Comparison:
    """Return a case and the functions that build its programs."""
    from benchmarks.ours import trm_flops, trm_step

    case: dict[str, Any] = {"mixer": mixer}
    for name in ("dim", "heads", "H_cycles", "L_cycles"):
        case[name] = getattr(settings, name)
    case |= {"batch_size": batch_size, "precision": bench.precision}
    config, checkout = trm_config(**case), settings.official

    def theirs(compiled: bool) -> Any:
        from benchmarks.official_trm import OfficialStep

        assert checkout is not None
        return OfficialStep(config, checkout, bench.torch_device, compiled)

    flops = trm_flops(config)
    return Comparison(
        title=f"{mixer}, batch {batch_size}, {bench.precision}",
        case=case,
        flops=flops,
        rates=step_rates("examples", batch_size, flops),
        ours=lambda weights: trm_step(config, weights),
        theirs=theirs if checkout is not None else None,
        must_agree=("lm_loss", "q_halt_loss"),
    )


def main(settings: Settings) -> None:
    """Run all cases, print their tables, write one JSON file."""
    bench = open_bench(settings)
    sizes = settings.batch_size or ((4,) if bench.kind == "cpu" else (768,))
    settings = replace(settings, batch_size=sizes, block=settings.block or bench.block)
    record = provenance(bench, settings, "adam-atan2")
    comparisons = (
        make_comparison(mixer, batch_size, settings, bench)
        for mixer in settings.mixers
        for batch_size in sizes
    )
    record["results"] = [run_comparison(one, settings, bench) for one in comparisons]
    write("trm_step", record, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
