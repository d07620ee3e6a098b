"""Time our GPT train step against nanoGPT's: `python -m benchmarks.gpt_step`.

Same weights, same batches: forward, backward, clipping, AdamW. What both compute is
compared before anything is timed. On a machine without a GPU the process is pinned to
one core and computes in float32.

Examples:
    python -m benchmarks.gpt_step
    python -m benchmarks.gpt_step --nanogpt ../nanoGPT --cases char-cpu char
    python -m benchmarks.gpt_step --nanogpt ../nanoGPT --cases gpt2 --block-size 256
"""

if not __package__:
    raise SystemExit("Run it from the project's root: python -m benchmarks.gpt_step")

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks import machine, session
from benchmarks.gpt_step_case import Case, make_case
from benchmarks.settings import Bench, StepSettings
from benchmarks.compare import Round, play
from benchmarks.table import Rate, mfu, per_second, tflops

BATCHES = 8
"""Different batches, which come in turns."""


@dataclass(frozen=True, kw_only=True)
class Settings(StepSettings):
    """What to time, and how long."""

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


def cases(settings: Settings, bench: Bench) -> list[Case]:
    """All cases, in the order of their turns."""
    default = ("char-cpu",) if bench.kind == "cpu" else ("gpt2", "char")
    return [
        make_case(
            name,
            bench.kind,
            bench.precision,
            batch_size=batch_size,
            block_size=settings.block_size,
            unroll=settings.unroll,
        )
        for name in settings.cases or default
        for batch_size in settings.batch_size or (0,)
    ]


def rates(case: Case, flops: int) -> tuple[Rate, ...]:
    """Tokens and operations a second; MFU where the device's peak is known."""
    import jax

    from train.report import peak_flops

    tokens = case.batch_size * case.model.block_size
    found = (per_second("tokens", "tok/s", tokens, digits=0), tflops(flops))
    peak = peak_flops(jax.devices()[0].device_kind)
    if peak is None or case.precision != "bfloat16":  # peaks are bfloat16's
        return found
    return (*found, mfu(flops, peak))


def make_round(case: Case, checkout: Path | None, device: str) -> Round:
    """A case, and how to build its arms; `device` is PyTorch's."""
    from benchmarks.our_gpt_step import OurStep, step_flops

    def theirs(compiled: bool) -> Any:
        from benchmarks.nanogpt_step import NanoGPTStep

        assert checkout is not None
        return NanoGPTStep(case, checkout, device, compiled=compiled, batches=BATCHES)

    flops = step_flops(case)
    return Round(
        title=f"{case.name}, batch {case.batch_size} of {case.model.block_size} "
        f"tokens, {case.precision}",
        case=case,
        more={"flops": flops},
        rates=rates(case, flops),
        reference="nanoGPT",
        ours=lambda weights: OurStep(case, weights, batches=BATCHES),
        theirs=theirs if checkout is not None else None,
    )


def main(settings: Settings) -> None:
    """Run all cases, print their tables, write one JSON file."""
    checkout = settings.nanogpt

    def results(bench: Bench) -> Iterator[session.Record]:
        for case in cases(settings, bench):
            match = make_round(case, checkout, bench.torch_device)
            yield play(match, settings, bench)

    def told(bench: Bench) -> session.Record:
        return {
            "block": settings.steps(bench.kind),
            "nanogpt": None if checkout is None else machine.commit(checkout),
        }

    session.run("gpt_step", settings, results, told)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
