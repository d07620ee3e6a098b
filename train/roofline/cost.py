"""Count the operations of a program before it is compiled.

Only matrix products count; a multiplication and its addition are two operations.

A run's MFU and the bound of `train.compile` are counts of different programs. MFU
counts `loss_flops`: the loss and its gradient, without work repeated to save memory
(Chowdhery et al. 2022, arXiv 2204.02311, appendix B). The bound counts all that a chip
does in a step. GPT's MFU is nanoGPT's formula (`gpt/size.py`), to be comparable.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from math import prod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, PyTree

from train.experiment import AbstractExperiment


def loss_flops(experiment: AbstractExperiment) -> int:
    """Return the operations of the loss of one row and of its gradient."""
    experiment, config = copy(experiment), experiment.config
    # XLA's attention, because inside of other kernels products cannot be counted.
    experiment.config = replace(config, model=replace(config.model, attention="xla"))

    def loss(parts: tuple[Any, PyTree], batch: PyTree) -> Array:
        model, table = parts
        carry = experiment.refill(model, experiment.init_carry(model, 1), batch)
        keys = experiment.step_config.keys(jnp.array(0), jnp.arange(1))
        rows = jax.tree.map(lambda rows: rows[:1], table)
        return experiment.loss(model, rows, carry, keys)[0]

    gradient = eqx.filter_make_jaxpr(eqx.filter_grad(loss))
    parts, batch = jax.eval_shape(experiment.build), experiment.batch_like(1)
    return flops(gradient(parts, batch)[0].jaxpr)


def flops(jaxpr: core.Jaxpr) -> int:
    """Return the operations of all matrix products.

    A loop counts once per round, or once if its length depends on the data. A kernel
    counts all blocks, skipped ones too. Inside of `shard_map` shapes, and so counts,
    are those of one device.
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
    """Yield the programs among an equation's parameters."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(part, "jaxpr", part)
            if isinstance(jaxpr, core.Jaxpr):
                yield jaxpr
