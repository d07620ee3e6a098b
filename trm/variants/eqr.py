"""Equilibrium Reasoner: TRM from random latents, with damped noisy steps."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key, PRNGKeyArray

from gpt.layers import Buffer, truncated_normal
from trm.layers import Network
from trm.noise import Noise, draw, fold
from trm.recursion import AbstractNoisyRecursion, fresh_latent

Pair = tuple[Float[Array, "*axes dim"], Float[Array, "*axes dim"]]
"""The answer y and the scratchpad z."""

STEP = 0.95  # towards the network's output; `lambda_`
SCALE = 0.01  # of the noise added to each refinement; `noise_scale`


class EqR(AbstractNoisyRecursion):
    """TRM with `f(z) + noise` in place of `f(z)`, a step of 0.95 towards it.

    n times `z = 0.05 z + 0.95 f(z + y + x) + 0.01 e`, then likewise y from `y + z`, in
    training and evaluation. Fresh latents are random at every position. Without noise
    they are fixed, one vector each.

    Source: arXiv 2605.21488; `models/eqr.py` of locuslab/EqR at 4d45856.
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

    def draw(self, keys: Key[Array, "*batch"], shape: tuple[int, int]) -> Pair:
        unit = lambda key, shape: truncated_normal(key, shape, 1.0)
        y, z = (draw(unit, fold(keys, number), shape) for number in (0, 1))
        return y.astype(self.fresh_y().dtype), z.astype(self.fresh_z().dtype)

    def __call__(
        self, latents: Pair, x: Float[Array, "*axes dim"], noise: Noise | None = None
    ) -> Pair:
        y, z = latents
        for number in range(self.refinements):
            z = self._towards(z, y + x, noise, number)
        return self._towards(y, z, noise, self.refinements), z

    def _towards(
        self,
        latent: Float[Array, "*axes dim"],
        added: Float[Array, "*axes dim"],
        noise: Noise | None,
        number: int,
    ) -> Float[Array, "*axes dim"]:
        latent = (1 - STEP) * latent + STEP * self.network(latent + added)
        return latent if noise is None else latent + SCALE * noise(number)

    def answer(self, latents: Pair) -> Float[Array, "*axes dim"]:
        return latents[0]
