"""The Tiny Recursive Model itself: an answer y, a scratchpad z, one network."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from gpt.layers import Buffer
from trm.layers import Network
from trm.recursion import AbstractRecursion, fresh_latent

Pair = tuple[Float[Array, "*axes dim"], Float[Array, "*axes dim"]]
"""The answer y and the scratchpad z."""


class TwoLatent(AbstractRecursion):
    """n times `z = f(z + y + x)`, then `y = f(y + z)`, with the same f.

    Source: paper section 4.2 and figure 3; `models/recursive_reasoning/trm.py`.
    """

    network: Network
    fresh_y: Buffer
    fresh_z: Buffer
    refinements: int = eqx.field(static=True)

    def __init__(
        self, network: Network, dim: int, refinements: int, *, key: PRNGKeyArray
    ):
        y_key, z_key = jax.random.split(key)
        self.network = network
        self.fresh_y = fresh_latent(dim, y_key)
        self.fresh_z = fresh_latent(dim, z_key)
        self.refinements = refinements

    def init(self) -> Pair:
        return self.fresh_y(), self.fresh_z()

    def __call__(self, latents: Pair, x: Float[Array, "*axes dim"]) -> Pair:
        y, z = latents
        for _ in range(self.refinements):
            z = self.network(z + (y + x))
        return self.network(y + z), z

    def answer(self, latents: Pair) -> Float[Array, "*axes dim"]:
        return latents[0]
