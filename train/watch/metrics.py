"""Metrics on the host: their values, order and names."""

import jax
import jax.numpy as jnp
import numpy as np

from gpt.metrics import Metrics
from train.watch.speed import Values

LATEST = ("lr", "table_lr", "loss_scale")
"""Metrics that are not averaged over steps: the latest value is reported."""


@jax.jit
def joined(before: Metrics, after: Metrics) -> Metrics:
    """Add the sums of two stretches of steps, on the devices."""
    return {
        name: pair if name in LATEST else jax.tree.map(jnp.add, before[name], pair)
        for name, pair in after.items()
    }


def averages(metrics: Metrics | dict[str, tuple[float, float]]) -> Values:
    """Return each sum over its count, on the host; None where the count is 0."""
    return {
        name: float(np.float64(total) / np.float64(count)) if count else None
        for name, (total, count) in jax.device_get(metrics).items()
    }


def arranged(values: Values, speed: Values) -> Values:
    """Order values: a loss, accuracies, other losses, the speed, the rest."""
    losses = [name for name in values if name.endswith("loss")]
    losses.sort(key=lambda name: name != "lm_loss")
    accuracies = [name for name in values if name.endswith("accuracy")]
    order = [*losses[:1], *accuracies, *losses[1:], *speed, *values]
    return {name: (values | speed)[name] for name in order}


def readable(values: Values) -> list[str]:
    """Return values as they are printed, without those that were not counted."""
    shown = {name: value for name, value in values.items() if value is not None}
    parts = []
    for name, value in shown.items():
        match name:
            case "score" | "memory_peak_bytes":
                continue
            case "examples_per_second" if "tokens_per_second" in shown:
                continue
            case "examples_per_second" | "tokens_per_second":
                number = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
                parts.append(f"{number} {name.partition('_')[0]}/s")
            case "mfu":
                parts.append(f"mfu {value:.1%}")
            case "memory_bytes":
                peak = shown.get("memory_peak_bytes", value) / 2**30
                parts.append(f"memory {value / 2**30:.2f} (peak {peak:.2f}) GiB")
            case "data_wait_seconds":
                parts.append(f"waited {value:.2g} s for data")
            case _:
                parts.append(f"{name} {value:.4g}")
    return parts
