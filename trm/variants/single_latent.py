"""Single-z: answer and scratchpad are one latent (71.9 % on Sudoku in the paper)."""

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from gpt.layers import Buffer
from trm.layers import Network
from trm.recursion import AbstractRecursion, fresh_latent


class SingleLatent(AbstractRecursion):
    """n times `z = f(z + x)`, then `z = f(z)`, with the same f.

    Source: paper section 4.2, table 2; `models/recursive_reasoning/trm_singlez.py`.
    """

    network: Network
    fresh_z: Buffer
    refinements: int = eqx.field(static=True)

    def __init__(
        self, network: Network, dim: int, refinements: int, *, key: PRNGKeyArray
    ):
        self.network = network
        self.fresh_z = fresh_latent(dim, key)
        self.refinements = refinements

    def init(self) -> Float[Array, " dim"]:
        return self.fresh_z()

    def __call__(
        self, latents: Float[Array, "*axes dim"], x: Float[Array, "*axes dim"]
    ) -> Float[Array, "*axes dim"]:
        for _ in range(self.refinements):
            latents = self.network(latents + x)
        return self.network(latents)

    def answer(self, latents: Float[Array, "*axes dim"]) -> Float[Array, "*axes dim"]:
        return latents
