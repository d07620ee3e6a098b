"""Hier6: one answer and six scratchpads, one a refinement (77.6 % in the paper)."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from gpt.layers import Buffer
from trm.layers import Network
from trm.recursion import AbstractRecursion, fresh_latent

Scratchpads = tuple[Float[Array, "*axes dim"], ...]


class SixLatent(AbstractRecursion):
    """Refinement i sets `z_i = f(sum(z) + y + x)`; then `y = f(y + sum(z))`.

    Source: paper section 4.2, table 2; `models/recursive_reasoning/trm_hier6.py`.
    """

    network: Network
    fresh_y: Buffer
    fresh_z: tuple[Buffer, ...]
    refinements: int = eqx.field(static=True)

    def __init__(
        self, network: Network, dim: int, refinements: int, *, key: PRNGKeyArray
    ):
        y_key, *z_keys = jax.random.split(key, 7)
        self.network = network
        self.fresh_y = fresh_latent(dim, y_key)
        self.fresh_z = tuple(fresh_latent(dim, z_key) for z_key in z_keys)
        self.refinements = refinements

    def init(self) -> tuple[Float[Array, " dim"], tuple[Float[Array, " dim"], ...]]:
        return self.fresh_y(), tuple(fresh() for fresh in self.fresh_z)

    def __call__(
        self,
        latents: tuple[Float[Array, "*axes dim"], Scratchpads],
        x: Float[Array, "*axes dim"],
    ) -> tuple[Float[Array, "*axes dim"], Scratchpads]:
        y, scratchpads = latents
        z = list(scratchpads)
        for i in range(self.refinements):
            z[i] = self.network(sum(z[1:], z[0]) + (y + x))
        return self.network(y + sum(z[1:], z[0])), tuple(z)

    def answer(
        self, latents: tuple[Float[Array, "*axes dim"], Scratchpads]
    ) -> Float[Array, "*axes dim"]:
        return latents[0]
