"""Build our step and PyTorch's, compare their results, and time them.

A benchmark defines its cases, each a `Comparison`; `run_comparison` runs one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.harness import (
    Bench,
    DeviceSettings,
    Program,
    Rates,
    Record,
    interleave,
    make_rows,
    show,
    time_block,
)

Arrays = Mapping[str, np.ndarray]
"""Results of a code, by name. `gradient NAME` and `weight NAME` are shown as one."""


@dataclass(frozen=True, kw_only=True)
class StepSettings(DeviceSettings):
    """Settings to time a step."""

    block: int = 0
    """Steps in a block, waited for at its end. 0: 1 on a CPU, 5 on a GPU."""

    warmup: int = 10
    """Steps of each program before timing."""

    compile: Literal["auto", "yes", "no"] = "auto"
    """Also time the other code's step under torch.compile. `auto`: on a GPU."""

    tolerance: float = 1e-3
    """Largest relative difference of what must agree, in float32."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One case of a benchmark."""

    title: str
    case: Record
    """Settings of the case, for the record."""

    flops: float
    """Floating-point operations of a step."""

    rates: Rates
    ours: Callable[[Arrays | None], Any]
    """Build our program from the other code's weights; None for fresh ones. It has
    `compile_facts`, called before its first step, and `outcome`, called after it."""

    theirs: Callable[[bool], Any] | None
    """Build the other program, under torch.compile if True. It has `weights`, `load`
    and an `outcome` with the same names. None: only ours is timed."""

    must_agree: tuple[str, ...] = ()
    """Names in the outcome that must agree in float32; none for all."""


def step_rates(unit: str, count: int, flops: float) -> Rates:
    """Return units and tera-operations per second from those per step."""
    return {
        f"{unit}_per_s": lambda ms: 1e3 * count / ms,
        "tflops": lambda ms: flops / ms / 1e9,
    }


def run_comparison(
    comparison: Comparison, settings: StepSettings, bench: Bench
) -> Record:
    """Compare, time and print one case; return its record."""
    print(f"\n{comparison.title}", flush=True)
    programs, errors, facts = _prepare(comparison, settings, bench)
    samples = interleave(
        programs,
        warmup=settings.warmup,
        repeats=settings.repeats,
        steps=settings.block,
    )
    rows = make_rows(programs, samples, comparison.rates)
    for name, more in facts.items():
        rows.setdefault(name, {}).update(more)
    show(rows)
    case, flops = comparison.case, comparison.flops
    return {"case": case, "flops": flops, "errors": errors, "arms": rows}


def _prepare(
    comparison: Comparison, settings: StepSettings, bench: Bench
) -> tuple[list[Program], dict[str, float], dict[str, Record]]:
    """Return the programs after one step, their differences, and compile facts."""
    if comparison.theirs is None:
        ours = comparison.ours(None)
        return [ours], {}, {ours.name: ours.compile_facts()}
    eager = comparison.theirs(False)
    weights = eager.weights()
    eager.load(weights)
    ours = comparison.ours(weights)
    facts = {ours.name: ours.compile_facts()}
    programs: list[Program] = [ours, eager]
    for program in programs:
        time_block(program, 1)
    errors = differences(ours.outcome(), eager.outcome())
    print(f"  relative difference to {eager.name} after one step:")
    show_differences(errors)
    for name in comparison.must_agree or errors:
        if bench.precision == "float32" and not errors[name] <= settings.tolerance:
            raise SystemExit(
                f"`{name}` must agree to {settings.tolerance:g} before timing: the "
                f"implementations differ by {errors[name]:.1e} (relative). Compare the "
                "two models, or raise `--tolerance`."
            )
    if settings.compile == "yes" or (
        settings.compile == "auto" and bench.kind == "gpu"
    ):
        compiled = comparison.theirs(True)
        compiled.load(weights)
        try:
            facts[compiled.name] = {"first_step_s": time_block(compiled, 1)[0] / 1e3}
            programs.append(compiled)
        except Exception as error:  # a compiler may fail in any way
            facts[compiled.name] = {"error": type(error).__name__}
    return programs, errors, facts


def differences(ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """Return norms of the differences over norms of the other code's values."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()

    def relative(name: str) -> float:
        a, b = np.float64(ours[name]), np.float64(theirs[name])
        return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30))

    return {name: relative(name) for name in theirs}


def show_differences(errors: Mapping[str, float]) -> None:
    """Print the worst gradient, the worst weight, and all others."""
    several = [name for name in errors if " " in name]
    for kind in dict.fromkeys(name.split()[0] for name in several):
        worst = max((n for n in several if n.startswith(kind)), key=errors.__getitem__)
        print(f"    {errors[worst]:.1e}  worst {kind} ({worst.split()[1]})")
    for name in errors:
        if name not in several:
            print(f"    {errors[name]:.1e}  {name}")


# -- PyTorch ---------------------------------------------------------------------------


class TorchProgram:
    """Base of PyTorch's programs; a subclass has a `step`."""

    def __init__(self, name: str, device: str):
        """Name the program and set PyTorch up; `device` is `cpu` or `cuda`."""
        import torch  # pyright: ignore[reportMissingImports]

        self.name, self.device = name, device
        if device == "cpu":
            torch.set_num_threads(1)  # as JAX has
        torch.manual_seed(0)
        self._synchronize = torch.cuda.synchronize

    def prepare(self, steps: int) -> None:
        """Do nothing: all batches are on the device."""

    def wait(self) -> None:
        """Wait for the device."""
        if self.device != "cpu":
            self._synchronize()


def host(tensor: Any) -> np.ndarray:
    """Copy a tensor to a float32 array on the host."""
    return tensor.detach().float().cpu().numpy().copy()


def after_first_step(module: Any, optimizer: Any, beta1: float) -> Arrays:
    """Return gradients, as the optimizer received them, and weights by name."""
    arrays = {}
    for name, parameter in module.named_parameters():
        moment = host(optimizer.state[parameter]["exp_avg"])
        arrays[f"gradient {name}"] = moment / (1.0 - beta1)
        arrays[f"weight {name}"] = host(parameter)
    return arrays
