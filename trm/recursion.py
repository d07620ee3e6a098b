"""Deep recursion: the common loop, and the interface of a variant.

In the paper's symbols, x is the embedded question, y the current answer (`z_H` in the
official code) and z the scratchpad (`z_L`). One call of a recursion is one cycle: n
refinements of z and one of y. `deep_recursion` makes T cycles, the last with gradient.

Source: paper figure 3; `models/recursive_reasoning/trm.py`, `forward`.
"""

import abc
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

from gpt.layers import Buffer, truncated_normal
from trm.noise import Noise

Latents = PyTree[Float[Array, "..."]]
"""State of a variant between supervision steps: any tree of `*axes dim` arrays."""


def fresh_latent(dim: int, key: PRNGKeyArray) -> Buffer:
    """Draw the fixed latent of every position of a new puzzle (`H_init`, `L_init`)."""
    return Buffer(truncated_normal(key, (dim,), 1.0))


class AbstractRecursion(eqx.Module):
    """One cycle of refinement: the part that variants replace."""

    @abc.abstractmethod
    def init(self) -> Latents:
        """Return latents of a new puzzle: `dim` vectors, the same at all positions."""

    @abc.abstractmethod
    def __call__(self, latents: Latents, x: Float[Array, "*axes dim"]) -> Latents:
        """Apply one cycle, in the layout of the network."""

    @abc.abstractmethod
    def answer(self, latents: Latents) -> Float[Array, "*axes dim"]:
        """Return the latent that the heads read."""


class AbstractNoisyRecursion(AbstractRecursion):
    """A recursion with random numbers if it gets keys."""

    @abc.abstractmethod
    def draw(self, keys: Key[Array, "*batch"], shape: tuple[int, int]) -> Latents:
        """Draw the latents of new puzzles, of shape `length dim` for each key."""

    @abc.abstractmethod
    def __call__(
        self, latents: Latents, x: Float[Array, "*axes dim"], noise: Noise | None = None
    ) -> Latents:
        """Apply one cycle, with noise if given."""


def deep_recursion(
    recursion: AbstractRecursion,
    latents: Latents,
    x: Float[Array, "*axes dim"],
    cycles: int,
    noise: Noise | None = None,
) -> Latents:
    """Apply `cycles` cycles; only the last carries gradient.

    The others get inputs and weights with stopped gradients, so that nothing of them
    is stored for the backward pass.
    """

    def cycle(
        recursion: AbstractRecursion, latents: Latents, x: Array, number: Any
    ) -> Latents:
        if noise is not None and isinstance(recursion, AbstractNoisyRecursion):
            return recursion(latents, x, noise.fold(number))
        return recursion(latents, x)

    frozen, still, latents = jax.lax.stop_gradient((recursion, x, latents))
    frozen = jax.tree.map(lambda w: w.astype(x.dtype), frozen)  # once for all cycles
    latents = jax.lax.fori_loop(
        0, cycles - 1, lambda i, carried: cycle(frozen, carried, still, i), latents
    )
    return cycle(recursion, jax.lax.stop_gradient(latents), x, cycles - 1)
