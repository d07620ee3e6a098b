"""Time our GPT train step against nanoGPT's: `python -m benchmarks.gpt_step`.

A step is forward, backward, clipping, AdamW, with the same weights and batches. Results
are compared before timing. Without a GPU the process is pinned to one core and computes
in float32.

Examples:
    python -m benchmarks.gpt_step
    python -m benchmarks.gpt_step --nanogpt ../nanoGPT --cases char-cpu char
    python -m benchmarks.gpt_step --nanogpt ../nanoGPT --cases gpt2 --block-size 256
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.cases import gpt_config
from benchmarks.compare import Comparison, StepSettings, run_comparison, step_rates
from benchmarks.harness import Bench, open_bench, provenance, write


@dataclass(frozen=True, kw_only=True)
class Settings(StepSettings):
    """Settings of the benchmark."""

    nanogpt: Path | None = None
    """Checkout of nanoGPT. None: only our step is timed."""

    cases: tuple[Literal["char-cpu", "char", "gpt2"], ...] = ()
    """Models, one after the other: nanoGPT's characters on a CPU and on a GPU, GPT-2
    124M. Default: char-cpu on a CPU, gpt2 and char on a GPU."""

    batch_size: tuple[int, ...] = ()
    """Batch sizes, one after the other. Default: 12 (gpt2 on a CPU: 1; char: 64, on a
    CPU 8)."""

    block_size: int = 0
    """Tokens of a sequence. 0: as the model's preset has it."""

    unroll: int = 0
    """Blocks that we compile in a row. 0: as the model's preset has it."""


def make_comparison(
    name: str, batch_size: int, settings: Settings, bench: Bench
) -> Comparison:
    """Return a case and the functions that build its programs."""
    import jax

    from benchmarks.ours import gpt_flops, gpt_step
    from train.watch.speed import peak_flops

    sizes = {"block_size": settings.block_size, "unroll": settings.unroll}
    config, tokens = gpt_config(name, bench.kind, bench.precision, batch_size, **sizes)
    checkout, length = settings.nanogpt, config.model.block_size

    def theirs(compiled: bool) -> Any:
        from benchmarks.nanogpt import NanoGPTStep

        assert checkout is not None
        return NanoGPTStep(config, tokens, checkout, bench.torch_device, compiled)

    flops = gpt_flops(config, tokens)
    rates = dict(step_rates("tokens", config.batch_size * length, flops))
    peak = peak_flops(jax.devices()[0].device_kind)
    if peak is not None and bench.precision == "bfloat16":  # peaks are bfloat16's
        rates["mfu"] = lambda ms: 1e3 * flops / ms / peak
    return Comparison(
        title=f"{name}, batch {config.batch_size} of {length} tokens, "
        f"{bench.precision}",
        case={
            "name": name,
            "model": asdict(config.model),
            "optim": asdict(config.optim),
            "tokens": tokens,
            "batch_size": config.batch_size,
            "precision": bench.precision,
        },
        flops=flops,
        rates=rates,
        ours=lambda weights: gpt_step(config, tokens, weights),
        theirs=theirs if checkout is not None else None,
    )


def main(settings: Settings) -> None:
    """Run all cases, print their tables, write one JSON file."""
    bench = open_bench(settings)
    settings = replace(settings, block=settings.block or bench.block)
    record = provenance(bench, settings)
    default = ("char-cpu",) if bench.kind == "cpu" else ("gpt2", "char")
    comparisons = (
        make_comparison(name, batch_size, settings, bench)
        for name in settings.cases or default
        for batch_size in settings.batch_size or (0,)
    )
    record["results"] = [run_comparison(one, settings, bench) for one in comparisons]
    write("gpt_step", record, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
