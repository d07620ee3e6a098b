"""Time our generation against nanoGPT's and Hugging Face's.

    python -m benchmarks.gpt_decode --nanogpt ../nanoGPT

Same weights, same prompt; the likeliest tokens of all are compared before anything is
timed. On a machine without a GPU the process is pinned to one core and computes in
float32.
"""

if not __package__:
    raise SystemExit("Run it from the project's root: python -m benchmarks.gpt_decode")

import importlib.util
import json
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from benchmarks import machine
from benchmarks.timing import interleave, summary
from benchmarks.trm_step import add_ratios

if TYPE_CHECKING:
    from benchmarks.gpt_case import Case


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to time, and how long."""

    nanogpt: Path | None = None
    """Checkout of nanoGPT. None: only ours is timed (and Hugging Face's)."""

    preset: str = "shakespeare-char"
    """Preset of `train.gpt` whose model is taken."""

    vocab: int = 65
    """Different tokens."""

    batch_size: tuple[int, ...] = (1,)
    """Texts written at once, one number after the other."""

    prompt_tokens: int = 1
    """Tokens of the prompt."""

    new_tokens: int = 256
    """Tokens to write."""

    top_k: int | None = 200
    """Draw from so many of the likeliest tokens while timing; None: from all."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type. `auto`: float32 on a CPU, bfloat16 on a GPU."""

    hugging_face: Literal["auto", "yes", "no"] = "auto"
    """Also time `transformers`. `auto`: if it is installed."""

    repeats: int = 20
    """Timed runs of each arm."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: the GPU if there is one."""

    core: int | None = None
    """Core to pin to on a CPU. None: the last one allowed."""

    out: Path | None = None
    """JSON file. None: `benchmarks/results/gpt_decode-<device>.json`."""


def make_cases(settings: Settings, kind: machine.Kind) -> "list[Case]":
    """All cases, in the order of their turns."""
    from benchmarks.gpt_case import Case

    s, auto = settings, "float32" if kind == "cpu" else "bfloat16"
    return [
        Case(
            preset=s.preset,
            vocab=s.vocab,
            batch_size=batch_size,
            prompt_tokens=s.prompt_tokens,
            new_tokens=s.new_tokens,
            precision=auto if s.precision == "auto" else s.precision,
        )
        for batch_size in s.batch_size
    ]


def make_arms(settings: Settings, case: "Case", kind: machine.Kind) -> list[Any]:
    """Ours first, then those that are at hand."""
    from benchmarks.gpt_case import random_weights
    from benchmarks.our_gpt import OurGeneration

    weights, device = random_weights(case), "cpu" if kind == "cpu" else "cuda"
    arms: list[Any] = [OurGeneration(case, weights)]
    if settings.nanogpt is not None:
        from benchmarks.torch_gpt import NanoGPT

        arms.append(NanoGPT(case, weights, settings.nanogpt, device))
    installed = importlib.util.find_spec("transformers") is not None
    wanted = settings.hugging_face
    if wanted == "yes" or (wanted == "auto" and installed):
        from benchmarks.torch_gpt import HuggingFace

        arms.append(HuggingFace(case, weights, device))
    return arms


def compare(arms: list[Any], case: "Case") -> dict[str, float]:
    """The share of the likeliest tokens in which each other arm agrees with ours.

    Raises:
        SystemExit: if some differ in float32.
    """
    for arm in arms:
        arm.top_k = 1
        arm.step()
        arm.wait()
    agree = {arm.name: float(np.mean(arm.new == arms[0].new)) for arm in arms[1:]}
    different = len(np.unique(arms[0].new))
    print(
        f"  likeliest tokens ({different} different ones), share that agrees: {agree}"
    )
    if case.precision == "float32" and any(share < 1.0 for share in agree.values()):
        raise SystemExit("All must write the same tokens before timing: they do not.")
    return agree


def run_case(settings: Settings, case: "Case", kind: machine.Kind) -> dict[str, Any]:
    """Compare, time and print one case; returns its record."""
    print(
        f"\n{case.preset}, batch {case.batch_size}, {case.precision}: "
        f"{case.new_tokens} tokens after {case.prompt_tokens}",
        flush=True,
    )
    arms = make_arms(settings, case, kind)
    record: dict[str, Any] = {"case": asdict(case), "agree": compare(arms, case)}
    for arm in arms:
        arm.top_k = settings.top_k
    samples = interleave(arms, warmup=2, repeats=settings.repeats, steps=1)
    record["arms"] = {}
    for arm, sample in zip(arms, samples, strict=True):
        row = summary(sample)
        row["ms_per_token"] = row["ms"] / case.new_tokens
        row["tokens_per_s"] = 1e3 * case.batch_size / row["ms_per_token"]
        row["weight_gb_per_s"] = case.weight_bytes() / row["ms_per_token"] / 1e6
        record["arms"][arm.name] = row | {"samples_ms": sample.wall}
    add_ratios(record["arms"])
    table(record["arms"])
    return record


def table(arms: dict[str, Any]) -> None:
    """Print the rows of one case."""
    print(
        f"  {'':14s}{'ms':>9s}{'p10':>9s}{'p90':>9s}{'cpu ms':>9s}{'ms/token':>10s}"
        f"{'token/s':>10s}{'GB/s':>7s}{'A/A':>7s}{'ratio':>7s}{'cpu':>7s}"
    )
    for name, row in arms.items():
        ratios = "".join(f"{row.get(k, 1.0):7.2f}" for k in ("ratio", "cpu_ratio"))
        print(
            f"  {name:14s}{row['ms']:9.1f}{row['ms_p10']:9.1f}{row['ms_p90']:9.1f}"
            f"{row['cpu_ms']:9.1f}{row['ms_per_token']:10.3f}{row['tokens_per_s']:10.1f}"
            f"{row['weight_gb_per_s']:7.1f}{row['aa']:7.3f}{ratios}",
            flush=True,
        )


def describe(settings: Settings, core: int | None) -> dict[str, Any]:
    """Everything about the measurement that is not a number of an arm."""
    import jax

    told = {k: v for k, v in asdict(settings).items() if k != "out"}
    versions = machine.versions()
    if settings.nanogpt is not None:
        from benchmarks.official_trm import commit

        told["nanogpt"] = commit(settings.nanogpt)
    if importlib.util.find_spec("transformers") is not None:
        versions["transformers"] = version("transformers")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": jax.devices()[0].device_kind,
        "cpu": machine.cpu_model(),
        "pinned_to_one_core": core is not None,
        "versions": versions,
        "settings": told,
    }


def main(settings: Settings) -> None:
    """Run all cases, print their tables, write one JSON file."""
    kind = machine.detect() if settings.device == "auto" else settings.device
    core = machine.hold(kind, settings.core)
    from train.devices import keep_freed_memory  # imports JAX

    if kind == "cpu":
        keep_freed_memory()  # as our runs do; it holds for PyTorch too
    record = describe(settings, core)
    print(f"{record['device']}, {record['cpu']}: {json.dumps(record['versions'])}")
    cases = make_cases(settings, kind)
    record["results"] = [run_case(settings, case, kind) for case in cases]
    name = f"gpt_decode-{machine.slug(record['device'])}.json"
    out = settings.out or Path(__file__).parent / "results" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1, default=str) + "\n")
    print(f"\nWritten to {out.name}.")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
