"""Samples of time as rows of a table: medians, rates, ratios."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Arm, Samples, summary

Columns = Sequence[tuple[str, str, int, int]]
"""Key, head, width and decimals of each column."""

_TIMES: Columns = (
    ("ms", "ms", 9, 1),
    ("ms_p10", "p10", 9, 1),
    ("ms_p90", "p90", 9, 1),
    ("cpu_ms", "cpu ms", 9, 1),
)
_RATIOS: Columns = (
    ("aa", "A/A", 7, 3),
    ("ratio", "ratio", 7, 3),
    ("cpu_ratio", "cpu", 7, 3),
)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A number that follows from the time of a step, and its column."""

    key: str
    head: str
    of_ms: Callable[[float], float]
    """From the milliseconds of a step."""

    width: int = 9
    digits: int = 3


def per_second(units: str, head: str, count: int, *, digits: int) -> Rate:
    """Units a second, of `count` a step."""
    return Rate(
        key=f"{units}_per_s",
        head=head,
        of_ms=lambda ms: 1e3 * count / ms,
        width=10,
        digits=digits,
    )


def tflops(flops: float) -> Rate:
    """Tera-operations a second, of `flops` a step."""
    return Rate(key="tflops", head="TFLOP/s", of_ms=lambda ms: flops / ms / 1e9)


def mfu(flops: float, peak: float) -> Rate:
    """Operations a second over what the device could do."""
    return Rate(
        key="mfu", head="MFU", of_ms=lambda ms: 1e3 * flops / ms / peak, width=7
    )


def make_rows(
    arms: Sequence[Arm], samples: Iterable[Samples], rates: Sequence[Rate]
) -> dict[str, Any]:
    """A row for each arm, by its name; the others relate to the one named `ours`."""
    rows: dict[str, Any] = {}
    for arm, sample in zip(arms, samples, strict=True):
        row = summary(sample)
        row |= {rate.key: rate.of_ms(row["ms"]) for rate in rates}
        rows[arm.name] = row | {"samples_ms": sample.wall}
    add_ratios(rows)
    return rows


def add_ratios(rows: Mapping[str, Any]) -> None:
    """To each other arm, its time over ours: above 1, ours is faster."""
    ours = rows["ours"]
    for name, row in rows.items():
        if name != "ours":
            row["ratio"] = row["ms"] / ours["ms"]
            row["cpu_ratio"] = row["cpu_ms"] / ours["cpu_ms"]


def show_table(rows: Mapping[str, Any], rates: Sequence[Rate]) -> None:
    """Print the rows of one case; those of arms that never ran have no `ms`."""
    middle = [(rate.key, rate.head, rate.width, rate.digits) for rate in rates]
    columns = (*_TIMES, *middle, *_RATIOS)
    print(f"  {'':18s}" + "".join(f"{head:>{width}s}" for _, head, width, _ in columns))
    for name, row in rows.items():
        if "ms" in row:
            cells = (
                f"{row[key]:{width}.{digits}f}" if key in row else " " * width
                for key, _, width, digits in columns
            )
            print(f"  {name:18s}" + "".join(cells), flush=True)
