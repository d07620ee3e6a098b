"""A run of a benchmark: the device, the cases, one JSON file of all that came out."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.settings import Bench, DeviceSettings, open_bench

Record = dict[str, Any]
"""What is written of a case, or of all."""


def describe(
    bench: Bench,
    settings: DeviceSettings,
    told: Mapping[str, Any],
    packages: tuple[str, ...],
) -> Record:
    """Everything about the measurement that is not a number of an arm."""
    import jax

    given = {k: v for k, v in asdict(settings).items() if k != "out"}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": jax.devices()[0].device_kind,
        "cpu": machine.cpu_model(),
        "pinned_to_one_core": bench.core is not None,
        "versions": machine.versions(*packages),
        "settings": given | dict(told),
    }


def run(
    name: str,
    settings: DeviceSettings,
    results: Callable[[Bench], Iterable[Record]],
    told: Callable[[Bench], Mapping[str, Any]] = lambda bench: {},
    packages: tuple[str, ...] = (),
) -> None:
    """Run all cases and write one JSON file.

    Args:
        name: of the benchmark, for the file.
        settings: as given.
        results: runs the cases; called when JAX may be imported.
        told: what to record in place of a setting, such as the commit of a checkout.
        packages: whose versions to record besides, where they are installed.
    """
    bench = open_bench(settings)
    from train.devices import keep_freed_memory  # imports JAX

    if bench.kind == "cpu":
        keep_freed_memory()  # as our runs do; it holds for PyTorch too
    record = describe(bench, settings, told(bench), packages)
    print(f"{record['device']}, {record['cpu']}: {json.dumps(record['versions'])}")
    record["results"] = list(results(bench))
    file = f"{name}-{machine.slug(record['device'])}.json"
    out = settings.out or Path(__file__).parent / "results" / file
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1, default=str) + "\n")
    print(f"\nWritten to {out.name}.")
