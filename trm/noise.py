"""Random numbers for a batch of puzzles, with a key for each.

They depend neither on the batch nor on the device of a puzzle.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

MULTIPLIER = 0x9E3779B1  # odd, so that every token counts
OWN = 0x45715221  # keeps these draws apart from others of the same key


def fold(
    keys: Key[Array, "*batch"], numbers: int | Int[Array, "#*batch"]
) -> Key[Array, "*batch"]:
    """Fold a number into each key."""
    numbers = jnp.broadcast_to(jnp.asarray(numbers), keys.shape)
    folded = jax.vmap(jax.random.fold_in)(keys.reshape(-1), numbers.reshape(-1))
    return folded.reshape(keys.shape)


def draw(
    sampler: Callable[..., Array], keys: Key[Array, "*batch"], shape: tuple[int, int]
) -> Float[Array, "*batch length dim"]:
    """Call `sampler(key, shape)` for each key."""
    values = jax.vmap(lambda key: sampler(key, shape))(keys.reshape(-1))
    return values.reshape(*keys.shape, *shape)


def puzzle_keys(inputs: Int[Array, "*batch seq"]) -> Key[Array, "*batch"]:
    """Return a key for each puzzle, a hash of its tokens, for unseeded evaluation."""
    powers = jnp.cumprod(jnp.full(inputs.shape[-1], MULTIPLIER, jnp.uint32))
    numbers = jnp.sum(inputs.astype(jnp.uint32) * powers, axis=-1, dtype=jnp.uint32)
    keys = jax.vmap(jax.random.key)(numbers.reshape(-1))
    return keys.reshape(inputs.shape[:-1])


class Noise(eqx.Module):
    """Standard normal numbers in the shape, type and layout of a network's input."""

    keys: Key[Array, "*batch"]
    shape: tuple[int, int] = eqx.field(static=True)
    dtype: jnp.dtype = eqx.field(static=True)
    enter: Callable[[Array], Array] = eqx.field(static=True)
    """From `*batch length dim` into the network's layout."""

    def fold(self, number: int | Int[Array, ""]) -> "Noise":
        """Return noise that differs for every number."""
        keys = fold(self.keys, number)
        return Noise(keys, self.shape, self.dtype, self.enter)

    def __call__(self, number: int | Int[Array, ""]) -> Float[Array, "*axes dim"]:
        """Return standard normal numbers, different for every `number`."""
        values = draw(jax.random.normal, fold(self.keys, number), self.shape)
        return self.enter(values.astype(self.dtype))
