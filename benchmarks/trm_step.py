"""Time our TRM train step against the official one: `python -m benchmarks.trm_step`.

Same weights, same boards; what both compute is compared before anything is timed. On a
machine without a GPU the process is pinned to one core and computes in float32.

Examples:
    python -m benchmarks.trm_step
    python -m benchmarks.trm_step --official ../TinyRecursiveModels --batch-size 2 4
"""

if not __package__:
    raise SystemExit("Run it from the project's root: python -m benchmarks.trm_step")

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from benchmarks import machine
from benchmarks.timing import Arm, interleave, summary

if TYPE_CHECKING:
    from benchmarks.trm_case import Case


@dataclass(frozen=True, kw_only=True)
class Settings:
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

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type. `auto`: float32 on a CPU, bfloat16 on a GPU."""

    repeats: int = 30
    """Timed blocks of each arm."""

    block: int = 0
    """Steps in a block, waited for at its end. 0: 1 on a CPU, 5 on a GPU."""

    warmup: int = 10
    """Steps of each arm before timing."""

    compile: Literal["auto", "yes", "no"] = "auto"
    """Also time the official step under torch.compile. `auto`: on a GPU."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: the GPU if there is one."""

    core: int | None = None
    """Core to pin to on a CPU. None: the last one allowed."""

    out: Path | None = None
    """JSON file. None: `benchmarks/results/trm_step-<device>.json`."""

    tolerance: float = 1e-3
    """Largest relative difference of the losses, in float32."""


@dataclass(frozen=True)
class Bench:
    """The settings, made definite for the device at hand."""

    settings: Settings
    kind: machine.Kind
    core: int | None

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes to time."""
        return self.settings.batch_size or ((4,) if self.kind == "cpu" else (768,))

    @property
    def block(self) -> int:
        """Steps of a timed block."""
        return self.settings.block or (1 if self.kind == "cpu" else 5)

    @property
    def compiled(self) -> bool:
        """Whether torch.compile is timed too."""
        wanted = self.settings.compile
        return wanted == "yes" or (wanted == "auto" and self.kind == "gpu")

    def cases(self) -> "list[Case]":
        """All cases, in the order of their turns."""
        from benchmarks.trm_case import Case

        s, auto = self.settings, "float32" if self.kind == "cpu" else "bfloat16"
        return [
            Case(
                mixer=mixer,
                dim=s.dim,
                heads=s.heads,
                H_cycles=s.H_cycles,
                L_cycles=s.L_cycles,
                batch_size=batch_size,
                precision=auto if s.precision == "auto" else s.precision,
            )
            for mixer in s.mixers
            for batch_size in self.batch_sizes
        ]


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Norm of the difference over the norm of the official value."""
    a, b = np.float64(ours), np.float64(theirs)
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30))


def compare(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> dict[str, float]:
    """Relative differences after one step.

    Raises:
        ValueError: if the two do not name the same arrays.
    """
    if ours.keys() != theirs.keys():
        odd = ", ".join(sorted(ours.keys() ^ theirs.keys()))
        raise ValueError(f"Both steps must name the same arrays: only one has {odd}.")
    return {name: difference(ours[name], theirs[name]) for name in theirs}


def show(errors: dict[str, float]) -> None:
    """Print the differences: losses and latents, then the worst of the weights."""
    print("  relative difference to the official step after one step:")
    for kind in ("gradient", "weight"):
        several = {n: e for n, e in errors.items() if n.startswith(kind)}
        worst = max(several, key=lambda name: several[name])
        print(f"    {several[worst]:.1e}  worst {kind} ({worst.split()[1]})")
    for name in ("lm_loss", "q_halt_loss", "z_H", "z_L", "table"):
        print(f"    {errors[name]:.1e}  {name}")


def check(errors: dict[str, float], bench: Bench, case: "Case") -> None:
    """Stop if the losses differ where they must not.

    Raises:
        SystemExit: if they do.
    """
    worst = max(errors["lm_loss"], errors["q_halt_loss"])
    limit = bench.settings.tolerance
    if case.precision == "float32" and not worst <= limit:
        raise SystemExit(
            f"The losses must agree to {limit:g} before timing: they differ by "
            f"{worst:.1e} (relative). Compare the two models, or raise `--tolerance`."
        )


def add_compiled(case: "Case", bench: Bench, weights: dict[str, np.ndarray]) -> Any:
    """The official step under torch.compile and its first-step seconds, or why not."""
    from benchmarks.official_trm import OfficialStep

    assert bench.settings.official is not None
    device = "cpu" if bench.kind == "cpu" else "cuda"
    arm = OfficialStep(case, bench.settings.official, device, compiled=True, batches=8)
    arm.load(weights)
    start = time.perf_counter()
    try:
        arm.step()
        arm.wait()
    except Exception as error:  # a compiler may fail in any way
        print(f"  torch.compile failed: {type(error).__name__}")
        return None, {"error": type(error).__name__}
    return arm, {"first_step_s": time.perf_counter() - start}


def prepare(case: "Case", bench: Bench) -> tuple[list[Arm], dict[str, Any]]:
    """The arms of a case, each after its first step, and what is known of them."""
    from benchmarks.our_trm import OurStep

    checkout = bench.settings.official
    if checkout is None:
        ours = OurStep(case, None, batches=8)
        return [ours], {"ours": ours.compile_facts()}
    from benchmarks.official_trm import OfficialStep

    device = "cpu" if bench.kind == "cpu" else "cuda"
    eager = OfficialStep(case, checkout, device, compiled=False, batches=8)
    weights = eager.weights()
    eager.load(weights)
    ours = OurStep(case, weights, batches=8)
    for arm in (ours, eager):
        arm.step()
        arm.wait()
    errors = compare(ours.outcome(), eager.outcome())
    show(errors)
    check(errors, bench, case)
    facts: dict[str, Any] = {"errors": errors, "ours": ours.compile_facts()}
    arms: list[Arm] = [ours, eager]
    if bench.compiled:
        compiled, facts["official compiled"] = add_compiled(case, bench, weights)
        arms += [compiled] if compiled else []
    return arms, facts


def run_case(case: "Case", bench: Bench) -> dict[str, Any]:
    """Compare, time and print one case; returns its record."""
    from benchmarks.trm_case import step_flops

    print(f"\n{case.mixer}, batch {case.batch_size}, {case.precision}", flush=True)
    arms, facts = prepare(case, bench)
    s = bench.settings
    samples = interleave(arms, warmup=s.warmup, repeats=s.repeats, steps=bench.block)
    flops = step_flops(case) * case.batch_size
    record: dict[str, Any] = {"case": asdict(case), "flops": flops}
    record["errors"] = facts.pop("errors", {})
    record["arms"] = {}
    for arm, sample in zip(arms, samples, strict=True):
        row = summary(sample)
        row["examples_per_s"] = 1e3 * case.batch_size / row["ms"]
        row["tflops"] = flops / row["ms"] / 1e9
        record["arms"][arm.name] = row | {"samples_ms": sample.wall}
    for name, more in facts.items():
        record["arms"].setdefault(name, {}).update(more)
    add_ratios(record["arms"])
    table(record["arms"])
    return record


def add_ratios(arms: dict[str, Any]) -> None:
    """To each official arm, its time over ours: above 1, ours is faster."""
    ours = arms["ours"]
    for name, row in arms.items():
        if name != "ours" and "ms" in row:
            row["ratio"] = row["ms"] / ours["ms"]
            row["cpu_ratio"] = row["cpu_ms"] / ours["cpu_ms"]


def table(arms: dict[str, Any]) -> None:
    """Print the rows of one case."""
    print(
        f"  {'':18s}{'ms':>9s}{'p10':>9s}{'p90':>9s}{'cpu ms':>9s}{'ex/s':>10s}"
        f"{'TFLOP/s':>9s}{'A/A':>7s}{'ratio':>7s}{'cpu':>7s}"
    )
    for name, row in arms.items():
        if "ms" not in row:
            continue
        ratios = "".join(
            f"{row[key]:7.3f}" if key in row else f"{'':7s}"
            for key in ("ratio", "cpu_ratio")
        )
        print(
            f"  {name:18s}{row['ms']:9.1f}{row['ms_p10']:9.1f}{row['ms_p90']:9.1f}"
            f"{row['cpu_ms']:9.1f}{row['examples_per_s']:10.2f}{row['tflops']:9.3f}"
            f"{row['aa']:7.3f}{ratios}"
        )
    ours = arms["ours"]
    print(
        f"  ours: lowered in {ours['lower_s']:.1f} s, compiled in "
        f"{ours['compile_s']:.1f} s; temporaries "
        f"{ours.get('temp_bytes', float('nan')) / 2**20:.0f} MiB",
        flush=True,
    )


def describe(bench: Bench) -> dict[str, Any]:
    """Everything about the measurement that is not a number of an arm."""
    import jax

    s = bench.settings
    told = {"official": "", **{k: v for k, v in asdict(s).items() if k != "out"}}
    if s.official is not None:
        from benchmarks.official_trm import commit

        told["official"] = commit(s.official)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": jax.devices()[0].device_kind,
        "cpu": machine.cpu_model(),
        "pinned_to_one_core": bench.core is not None,
        "versions": machine.versions(),
        "settings": told | {"batch_size": bench.batch_sizes, "block": bench.block},
    }


def main(settings: Settings) -> None:
    """Run all cases, print their tables, write one JSON file."""
    kind = machine.detect() if settings.device == "auto" else settings.device
    bench = Bench(settings, kind, machine.hold(kind, settings.core))
    from train.devices import keep_freed_memory  # imports JAX

    if kind == "cpu":
        keep_freed_memory()  # as our runs do; it holds for PyTorch too
    record = describe(bench)
    print(f"{record['device']}, {record['cpu']}: {json.dumps(record['versions'])}")
    record["results"] = [run_case(case, bench) for case in bench.cases()]
    name = f"trm_step-{machine.slug(record['device'])}.json"
    out = settings.out or Path(__file__).parent / "results" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1, default=str) + "\n")
    print(f"\nWritten to {out.name}.")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
