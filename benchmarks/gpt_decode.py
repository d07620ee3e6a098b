"""Time our generation against nanoGPT's and Hugging Face's.

    python -m benchmarks.gpt_decode --nanogpt ../nanoGPT

Weights and prompt are the same; the likeliest tokens are compared before timing.
Without a GPU the process is pinned to one core and computes in float32.
"""

import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.cases import Writing
from benchmarks.harness import (
    DeviceSettings,
    Rates,
    Record,
    interleave,
    make_rows,
    open_bench,
    provenance,
    show,
    write,
)


@dataclass(frozen=True, kw_only=True)
class Settings(DeviceSettings):
    """Settings of the benchmark."""

    nanogpt: Path | None = None
    """Checkout of nanoGPT. None: only ours is timed (and Hugging Face's)."""

    preset: str = "shakespeare-char"
    """Preset of `train.gpt` with the model's configuration."""

    vocab: int = 65
    """Size of the vocabulary."""

    batch_size: tuple[int, ...] = (1,)
    """Numbers of texts written at once, each a case."""

    prompt_tokens: int = 1
    """Tokens of the prompt."""

    new_tokens: int = 256
    """Tokens to write."""

    top_k: int | None = 200
    """Likeliest tokens to draw from while timing; None for all."""

    hugging_face: Literal["auto", "yes", "no"] = "auto"
    """Also time `transformers`. `auto`: if it is installed."""

    repeats: int = 20
    """Timed runs of each program."""


def make_programs(settings: Settings, case: Writing, device: str) -> list[Any]:
    """Return our program, then the other available ones."""
    from benchmarks.ours import Generation, random_gpt

    model = random_gpt(case)
    programs: list[Any] = [Generation(case, model)]
    if settings.nanogpt is not None:
        from benchmarks.nanogpt import nanogpt_generation

        programs.append(nanogpt_generation(case, model, settings.nanogpt, device))
    wanted = settings.hugging_face
    if wanted == "auto" and importlib.util.find_spec("transformers") is not None:
        wanted = "yes"
    if wanted == "yes":
        from benchmarks.nanogpt import hugging_face_generation

        programs.append(hugging_face_generation(case, model, device))
    return programs


def agreement(programs: list[Any], precision: str) -> dict[str, float]:
    """Return the share of likeliest tokens in which each program agrees with ours.

    Raises:
        SystemExit: if some differ in float32.
    """
    for program in programs:
        program.top_k = 1
        program.step()
        program.wait()
    ours, *others = programs
    agree = {other.name: float(np.mean(other.new == ours.new)) for other in others}
    different = len(np.unique(ours.new))
    print(
        f"  likeliest tokens ({different} different ones), share that agrees: {agree}"
    )
    if precision == "float32" and any(share < 1.0 for share in agree.values()):
        raise SystemExit("All must write the same tokens before timing: they do not.")
    return agree


def run_case(settings: Settings, case: Writing, device: str) -> Record:
    """Compare, time and print one case; return its record."""
    new, tokens = case.new_tokens, case.batch_size * case.new_tokens
    print(
        f"\n{case.preset}, batch {case.batch_size}, {case.precision}: "
        f"{new} tokens after {case.prompt_tokens}",
        flush=True,
    )
    programs = make_programs(settings, case, device)
    agree = agreement(programs, case.precision)
    for program in programs:
        program.top_k = settings.top_k
    samples = interleave(programs, warmup=2, repeats=settings.repeats, steps=1)
    rates: Rates = {
        "ms_per_token": lambda ms: ms / new,
        "tokens_per_s": lambda ms: 1e3 * tokens / ms,
        "weight_gb_per_s": lambda ms: case.weight_bytes() * new / ms / 1e6,
    }
    rows = make_rows(programs, samples, rates)
    show(rows)
    return {"case": asdict(case), "agree": agree, "arms": rows}


def main(settings: Settings) -> None:
    """Run all cases, print their tables, write one JSON file."""
    bench = open_bench(settings)
    record = provenance(bench, settings, "transformers")
    record["results"] = []
    for batch_size in settings.batch_size:
        case = Writing(
            preset=settings.preset,
            vocab=settings.vocab,
            batch_size=batch_size,
            prompt_tokens=settings.prompt_tokens,
            new_tokens=settings.new_tokens,
            precision=bench.precision,
        )
        record["results"].append(run_case(settings, case, bench.torch_device))
    write("gpt_decode", record, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
