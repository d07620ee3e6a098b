"""Winner takes all: several scratchpads for a puzzle in training, one that learns.

Each chain has its own scratchpad z; all share the answer y. Before a supervision step,
every chain makes it without gradient. The chain with the lowest loss then makes it with
gradient, and its y goes to all chains. Evaluation has one chain, at its usual cost.

Source: Dillon 2026, arXiv 2601.19085, algorithm 1 with carry policy copy/all;
`code/experiment.py`, `Experiment.step`, of jvdillon/sic. Two deviations: the first
chain starts from the fixed scratchpad, as in evaluation, the others from random ones
(there all start random); and the winner's step is made again for its gradient, which
is the same and needs the memory of one chain.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree

from gpt.layers import truncated_normal
from trm.model import TRM, Prediction
from trm.noise import draw, fold
from trm.recursion import Latents
from trm.rollouts import scratchpads

START = 0x57544100  # keeps these draws apart from others of the same key

Chains = PyTree[Float[Array, "batch chains length dim"]]
"""Latents of every chain of every row."""


def compete(
    model: TRM,
    latents: Chains,
    x: Float[Array, "batch length dim"],
    fresh: Bool[Array, " batch"],
    keys: Key[Array, " batch"],
    loss: Callable[[Prediction], Float[Array, " batch"]],
) -> tuple[Latents, Callable[[Latents], Chains]]:
    """Make a step of every chain without gradient, and find the winner of each row.

    Args:
        model: cast.
        latents: before the step.
        x: the question.
        fresh: rows that begin a puzzle; their chains get scratchpads first.
        keys: one for each row.
        loss: of a prediction, for each row.

    Returns:
        The winner's latents before the step, and a function: from the winner's latents
        after the step to the latents of all chains.
    """
    model, x = jax.lax.stop_gradient((model, x))
    pads = scratchpads(model.recursion, latents)
    latents = start_chains(latents, pads, fresh, keys)
    chains = jax.tree.leaves(latents)[0].shape[1]
    spread = jnp.broadcast_to(x[:, None], (len(x), chains, *x.shape[1:]))
    after = model.refine(latents, spread)
    losses = jax.vmap(loss, in_axes=1, out_axes=1)(model.predict(after))
    best = jnp.argmin(losses, axis=1)
    rows = jnp.arange(len(x))

    def rejoin(winner: Latents) -> Chains:
        answer = lambda leaf, like: jnp.broadcast_to(leaf[:, None], like.shape)
        keep = lambda pad, new, old: old if pad else answer(new, old)
        return jax.tree.map(keep, pads, winner, after)

    return jax.tree.map(lambda leaf: leaf[rows, best], latents), rejoin


def start_chains(
    latents: Chains,
    pads: PyTree[bool],
    fresh: Bool[Array, " batch"],
    keys: Key[Array, " batch"],
) -> Chains:
    """Draw the scratchpads of fresh rows, except the first chain's.

    `pads` is True for each latent that is a scratchpad.
    """
    leaves, structure = jax.tree.flatten(latents)
    for index, (leaf, pad) in enumerate(
        zip(leaves, jax.tree.leaves(pads), strict=True)
    ):
        if pad:
            rows, chains, length, dim = leaf.shape
            shape = (chains - 1) * length, dim
            unit = lambda key, shape: truncated_normal(key, shape, 1.0)
            drawn = draw(unit, fold(keys, START + index), shape)
            drawn = drawn.reshape(rows, chains - 1, length, dim).astype(leaf.dtype)
            others = jnp.where(fresh[:, None, None, None], drawn, leaf[:, 1:])
            leaves[index] = jnp.concatenate((leaf[:, :1], others), axis=1)
    return jax.tree.unflatten(structure, leaves)
