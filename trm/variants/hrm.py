"""HRM: the model that TRM simplifies, with a fast and a slow network."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from gpt.layers import Buffer
from trm.layers import Network
from trm.recursion import AbstractRecursion, fresh_latent

Pair = tuple[Float[Array, "*axes dim"], Float[Array, "*axes dim"]]
"""The answer y and the scratchpad z."""


class HRM(AbstractRecursion):
    """n times `z = low(z + y + x)`, then `y = high(y + z)`; 1-step gradient.

    Only the last call of each network carries gradient, hence the `stop_gradient`
    before it; the cycles before this one carry none anyway.

    Source: arXiv 2506.21734; `models/recursive_reasoning/hrm.py`.
    """

    high: Network
    low: Network
    fresh_y: Buffer
    fresh_z: Buffer
    refinements: int = eqx.field(static=True)

    def __init__(
        self,
        high: Network,
        low: Network,
        dim: int,
        refinements: int,
        *,
        key: PRNGKeyArray,
    ):
        y_key, z_key = jax.random.split(key)
        self.high = high
        self.low = low
        self.fresh_y = fresh_latent(dim, y_key)
        self.fresh_z = fresh_latent(dim, z_key)
        self.refinements = refinements

    def init(self) -> Pair:
        return self.fresh_y(), self.fresh_z()

    def __call__(self, latents: Pair, x: Float[Array, "*axes dim"]) -> Pair:
        y, z = latents
        frozen, still = jax.lax.stop_gradient((self.low, x))
        for _ in range(self.refinements - 1):
            z = frozen(z + (y + still))
        z = self.low(z + (y + x))
        return self.high(y + z), z

    def answer(self, latents: Pair) -> Float[Array, "*axes dim"]:
        return latents[0]
