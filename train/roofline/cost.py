"""What a step costs at the least: operations, read off the program before compiling.

Those of matrix products, as in MFU, but what is computed again to save memory counts
too: a chip does it. A loop's body counts as often as it runs.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

from jax.extend import core


def flops(jaxpr: core.Jaxpr) -> int:
    """Operations of all matrix products; two for a multiplication and its addition.

    Of a loop whose length the data decide, one round. Of a kernel, all blocks, skipped
    ones too. Inside of `shard_map` shapes, and so counts, are those of one device.
    """
    total = 0
    for equation in jaxpr.eqns:
        params = equation.params
        match equation.primitive.name:
            case "dot_general":
                (contracted, _), _ = params["dimension_numbers"]
                left: Any = equation.invars[0].aval
                result: Any = equation.outvars[0].aval
                inner = prod(left.shape[axis] for axis in contracted)
                total += 2 * inner * prod(result.shape)
            case "scan":
                total += params["length"] * flops(params["jaxpr"].jaxpr)
            case "cond":
                total += max(flops(branch.jaxpr) for branch in params["branches"])
            case "pallas_call":
                rounds = prod(n for n in params["grid_mapping"].grid if type(n) is int)
                total += rounds * flops(params["jaxpr"])
            case _:
                total += sum(flops(inner) for inner in _inside(params))
    return total


def _inside(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The programs among an equation's parameters."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(part, "jaxpr", part)
            if isinstance(jaxpr, core.Jaxpr):
                yield jaxpr
