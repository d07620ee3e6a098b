"""Print the facts of a compiled step."""

import re
from collections import Counter
from collections.abc import Iterator
from math import prod

from train.roofline.program import Run
from train.roofline.study import GIB, GIGA, Facts

MEGA = 10**6


def describe(facts: Facts, more: dict[str, int]) -> Iterator[str]:
    """Yield the lines of a report.

    Args:
        facts: from `study`.
        more: fields to recommend if the step does not fit.
    """
    devices, slices = prod(facts["mesh"].values()), facts["slices"]
    yield (
        f"{devices} x {facts['device']}, mesh "
        f"{' x '.join(map(str, facts['mesh'].values()))}: {facts['batch']} examples a "
        f"step, {facts['batch'] // devices} on a device in {slices} "
        f"slice{'s' if slices > 1 else ''}"
    )
    gib = lambda size: "?" if size is None else f"{size / GIB:.2f} GiB"
    peak = gib(facts["peak"])
    room = f" of {gib(facts['room'])}" if facts["room"] else ""
    if not facts["fits"]:
        flags = (f"--config.{k.replace('_', '-')} {v}" for k, v in more.items())
        remedy = f" Try `{' '.join(flags)}`, or `--fit`." if more else ""
        yield f"fits      no: {peak}{room} a device.{remedy}"
        return
    yield f"fits      yes: {peak}{room} a device at the peak"
    yield from _memory(facts)
    yield from _network(facts)
    yield from _speed(facts)


def _memory(facts: Facts) -> Iterator[str]:
    parts = {**facts["state"], "the rest": facts["peak"] - sum(facts["state"].values())}
    sizes = [
        f"{name} {size / MEGA:,.1f}"
        for name, size in parts.items()
        if size > MEGA / 10 or name == "the rest"
    ]
    yield f"memory    MB a device: {', '.join(sizes)}"
    yield (
        f"          in place: {facts['aliased_arrays']} of {facts['arrays']} arrays of "
        f"the state; program {facts['code'] / MEGA:,.1f}"
    )


def _network(facts: Facts) -> Iterator[str]:
    updates = facts["updates"]
    kinds = [
        f"{kind} {number / updates:g} ({size / updates / MEGA:,.1f} MB)"
        for kind, (number, size) in facts["collectives"].items()
    ]
    inside = facts["collectives_in_loops"]
    yield f"network   {', '.join(kinds) or 'no collective'}; {inside} of them in loops"
    if unknown := facts["loops"].count(None):
        yield f"          {unknown} loops of unknown length count as one round"


def _speed(facts: Facts) -> Iterator[str]:
    updates = facts["updates"]
    operations, moved = facts["flops"] / updates, facts["bytes"] / updates
    if "seconds" not in facts:
        yield (
            f"at best   not known: {facts['device']} is not in the tables; "
            f"{operations / GIGA:,.1f} GFLOP, {moved / GIGA:,.2f} GB"
        )
        return
    collected = sum(size for _, size in facts["collectives"].values()) / updates
    amounts = {
        "compute": f"{operations / 1e12:,.2f} TFLOP",
        "memory": f"{moved / GIGA:,.1f} GB",
        "network": f"{collected / MEGA:,.1f} MB in collectives",
    }
    for name, amount in amounts.items():
        mark = "  <- the bound" if name == facts["bound"] else ""
        time_ms = 1000 * facts["seconds"][name] / updates
        yield f"at best   {time_ms:8.2f} ms a step by {name}: {amount}{mark}"
    yield from _estimate(facts)
    if launches := facts["launches"]:
        yield f"launches  {launches / updates:,.0f} kernels and copies a step"
    mfu = facts["rates"].get("mfu")
    mfu = "" if mfu is None else f", an MFU of {mfu:.0%}"
    expected = ""
    if "estimate" in facts:
        rate = facts["examples"] / facts["estimate"]
        expected = f"; by the estimate {rate:,.0f}"
    rate = facts["best_rate"]
    yield f"          so at most {rate:,.0f} examples a second{mfu}{expected}"
    yield f"compiled  in {facts['compile_s']:.0f} s"


def _estimate(facts: Facts) -> Iterator[str]:
    if "estimate" not in facts:
        return
    shown, updates = 5, facts["updates"]
    time_ms = lambda cycles: cycles / (facts["clock"] * MEGA * updates)
    parts = list(facts["cycles"].items())
    kinds = [f"{kind} {time_ms(cycles):.1f}" for kind, cycles in parts[:shown]]
    if more := sum(cycles for _, cycles in parts[shown:]):
        kinds.append(f"others {time_ms(more):.1f}")
    whole = 1000 * facts["estimate"] / updates
    yield f"estimate {whole:9.2f} ms a step by the compiler: {', '.join(kinds)}"
    left = (f"{kind} {n / updates:g}" for kind, n in facts["without_cycles"].items())
    yield (
        "          too high where arrays stay on the chip; not in it: "
        f"{', '.join(left) or 'nothing'}"
    )


def largest(
    ranked: list[tuple[int, Run]], number: int, unit: str, size: float | int
) -> Iterator[str]:
    """Yield a line for each of the `number` operations with the largest amounts.

    Operations with equal kind, shape and scope are added up.

    Args:
        ranked: pairs of an amount and an operation's runs.
        number: of lines.
        unit: name of the unit to print.
        size: amounts in a unit.
    """
    total, times = Counter[tuple[str, str, str]](), Counter[tuple[str, str, str]]()
    for amount, run in ranked:
        operation = run.operation
        shape = re.sub(r"\{[^{}]*\}", "", operation.shape)
        key = operation.kind, shape, operation.scope
        total[key] += amount
        times[key] += run.times
    for (kind, shape, scope), amount in total.most_common(number):
        what = f"{times[kind, shape, scope]:5d} x {kind} {shape[:60]} {scope[-60:]}"
        yield f"  {amount / size:7.2f} {unit} {what}"
