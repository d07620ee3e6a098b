"""Time our generation against nanoGPT's and Hugging Face's.

    python -m benchmarks.gpt_decode --nanogpt ../nanoGPT

Same weights, same prompt; the likeliest tokens of all are compared before anything is
timed. On a machine without a GPU the process is pinned to one core and computes in
float32.
"""

if not __package__:
    raise SystemExit("Run it from the project's root: python -m benchmarks.gpt_decode")

import importlib.util
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from benchmarks import machine, session
from benchmarks.settings import Bench, DeviceSettings
from benchmarks.table import Rate, make_rows, per_second, show_table
from benchmarks.harness import interleave

if TYPE_CHECKING:
    from benchmarks.gpt_case import Case


@dataclass(frozen=True, kw_only=True)
class Settings(DeviceSettings):
    """What to time."""

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

    hugging_face: Literal["auto", "yes", "no"] = "auto"
    """Also time `transformers`. `auto`: if it is installed."""

    repeats: int = 20
    """Timed runs of each arm."""


def make_case(settings: Settings, bench: Bench, batch_size: int) -> "Case":
    """The case of a batch size."""
    from benchmarks.gpt_case import Case

    return Case(
        preset=settings.preset,
        vocab=settings.vocab,
        batch_size=batch_size,
        prompt_tokens=settings.prompt_tokens,
        new_tokens=settings.new_tokens,
        precision=bench.precision,
    )


def rates(case: "Case") -> tuple[Rate, ...]:
    """Tokens a second, time a token, and how fast the weights are read."""
    each = lambda ms: ms / case.new_tokens
    tokens, weights = case.batch_size * case.new_tokens, case.weight_bytes()
    return (
        Rate(key="ms_per_token", head="ms/token", of_ms=each, width=10),
        per_second("tokens", "token/s", tokens, digits=1),
        Rate(
            key="weight_gb_per_s",
            head="GB/s",
            of_ms=lambda ms: weights / each(ms) / 1e6,
            width=7,
            digits=1,
        ),
    )


def make_arms(settings: Settings, case: "Case", device: str) -> list[Any]:
    """Ours first, then those that are at hand."""
    from benchmarks.gpt_case import random_weights
    from benchmarks.our_gpt import OurGeneration

    weights = random_weights(case)
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


def run_case(settings: Settings, case: "Case", device: str) -> session.Record:
    """Compare, time and print one case; returns its record."""
    print(
        f"\n{case.preset}, batch {case.batch_size}, {case.precision}: "
        f"{case.new_tokens} tokens after {case.prompt_tokens}",
        flush=True,
    )
    arms = make_arms(settings, case, device)
    agree = compare(arms, case)
    for arm in arms:
        arm.top_k = settings.top_k
    samples = interleave(arms, warmup=2, repeats=settings.repeats, steps=1)
    rows = make_rows(arms, samples, rates(case))
    show_table(rows, rates(case))
    return {"case": asdict(case), "agree": agree, "arms": rows}


def main(settings: Settings) -> None:
    """Run all cases, print their tables, write one JSON file."""
    checkout = settings.nanogpt

    def results(bench: Bench) -> Iterator[session.Record]:
        for batch_size in settings.batch_size:
            case = make_case(settings, bench, batch_size)
            yield run_case(settings, case, bench.torch_device)

    def told(bench: Bench) -> session.Record:
        return {"nanogpt": None if checkout is None else machine.commit(checkout)}

    session.run("gpt_decode", settings, results, told, packages=("transformers",))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
