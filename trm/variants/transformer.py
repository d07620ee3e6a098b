"""The baseline without recursion: a transformer applied once a supervision step."""

from jaxtyping import Array, Float, PRNGKeyArray

from gpt.layers import Buffer
from trm.layers import Network
from trm.recursion import AbstractRecursion, fresh_latent


class Transformer(AbstractRecursion):
    """`z = f(z + x)`, once, with gradient.

    Source: `models/recursive_reasoning/transformers_baseline.py`.
    """

    network: Network
    fresh_z: Buffer

    def __init__(self, network: Network, dim: int, *, key: PRNGKeyArray):
        self.network = network
        self.fresh_z = fresh_latent(dim, key)

    def init(self) -> Float[Array, " dim"]:
        return self.fresh_z()

    def __call__(
        self, latents: Float[Array, "*axes dim"], x: Float[Array, "*axes dim"]
    ) -> Float[Array, "*axes dim"]:
        return self.network(latents + x)

    def answer(self, latents: Float[Array, "*axes dim"]) -> Float[Array, "*axes dim"]:
        return latents
