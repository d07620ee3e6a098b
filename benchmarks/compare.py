"""Our step against another code's: build both, compare them, time them in turns.

A benchmark says what its cases are, each a `Round`; `play` does the rest.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from benchmarks.agreement import check, compare, show
from benchmarks.session import Record
from benchmarks.settings import Bench, StepSettings
from benchmarks.table import Rate, make_rows, show_table
from benchmarks.harness import Arm, interleave

Weights = Mapping[str, np.ndarray]
"""Weights under the other code's names."""


class Ours(Arm, Protocol):
    """Our arm."""

    def outcome(self) -> dict[str, np.ndarray]:
        """What is compared after the first step."""
        ...

    def compile_facts(self) -> dict[str, float]:
        """What is known of the compiled program; see `OurArm`."""
        ...


class Theirs(Arm, Protocol):
    """The other code's arm."""

    def outcome(self) -> dict[str, np.ndarray]:
        """The same arrays as ours."""
        ...

    def weights(self) -> dict[str, np.ndarray]:
        """Its fresh weights, which all arms start from."""
        ...

    def load(self, weights: Weights) -> None:
        """Take over such weights."""
        ...


@dataclass(frozen=True, kw_only=True)
class Round:
    """One case of a benchmark."""

    title: str
    case: Any
    """A dataclass: what is timed, for the record."""

    more: Record = field(default_factory=dict)
    """What else to record."""

    rates: tuple[Rate, ...]
    reference: str
    """The other code's name; its arms are `<reference> eager` and `... compiled`."""

    ours: Callable[[Weights | None], Ours]
    """Builds our arm from the other code's weights, or from fresh ones."""

    theirs: Callable[[bool], Theirs] | None
    """Builds the other arm, under torch.compile or not. None: only ours is timed."""

    must_agree: tuple[str, ...] | None = None
    """Names in the outcome that must agree in float32; None for all."""


def first_step(arm: Arm) -> float:
    """The seconds of an arm's first step."""
    start = time.perf_counter()
    arm.step()
    arm.wait()
    return time.perf_counter() - start


def try_compiled(arm: Theirs) -> tuple[list[Arm], Record]:
    """The arm and the seconds of its first step, or why there is none."""
    try:
        return [arm], {"first_step_s": first_step(arm)}
    except Exception as error:  # a compiler may fail in any way
        print(f"  torch.compile failed: {type(error).__name__}")
        return [], {"error": type(error).__name__}


def prepare(
    match: Round, settings: StepSettings, bench: Bench
) -> tuple[list[Arm], dict[str, float], Record]:
    """The arms after their first step, their differences, and more for their rows."""
    if match.theirs is None:
        ours = match.ours(None)
        return [ours], {}, {"ours": ours.compile_facts()}
    eager = match.theirs(False)
    weights = eager.weights()
    eager.load(weights)
    ours = match.ours(weights)
    for arm in (ours, eager):
        first_step(arm)
    errors = compare(ours.outcome(), eager.outcome())
    show(errors, match.reference)
    if bench.precision == "float32":
        check(errors, match.must_agree or tuple(errors), settings.tolerance)
    arms: list[Arm] = [ours, eager]
    facts: Record = {"ours": ours.compile_facts()}
    if settings.compiled(bench.kind):
        compiled = match.theirs(True)
        compiled.load(weights)
        added, facts[compiled.name] = try_compiled(compiled)
        arms += added
    return arms, errors, facts


def play(match: Round, settings: StepSettings, bench: Bench) -> Record:
    """Compare, time and print one case; returns its record."""
    print(f"\n{match.title}", flush=True)
    arms, errors, facts = prepare(match, settings, bench)
    samples = interleave(
        arms,
        warmup=settings.warmup,
        repeats=settings.repeats,
        steps=settings.steps(bench.kind),
    )
    rows = make_rows(arms, samples, match.rates)
    for name, more in facts.items():
        rows.setdefault(name, {}).update(more)
    show_table(rows, match.rates)
    show_compile_facts(rows["ours"])
    return {"case": asdict(match.case), **match.more, "errors": errors, "arms": rows}


def show_compile_facts(facts: Mapping[str, float]) -> None:
    """Print what compiling our step took."""
    print(
        f"  ours: lowered in {facts['lower_s']:.1f} s, compiled in "
        f"{facts['compile_s']:.1f} s; temporaries "
        f"{facts.get('temp_bytes', float('nan')) / 2**20:.0f} MiB",
        flush=True,
    )
