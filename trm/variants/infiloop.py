"""InfiLoop: TRM whose scratchpad is a running average of the network's outputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gpt.layers import Buffer
from trm.layers import Network, rms_norm
from trm.recursion import AbstractRecursion, fresh_latent

Three = tuple[
    Float[Array, "*axes dim"], Float[Array, "*axes dim"], Float[Array, "*axes dim"]
]
"""The answer y, the scratchpad z, and the log of the weight behind z."""

NOTHING = -30.0
"""Log of the weight behind a fresh latent: the first output replaces it."""


class Average(eqx.Module):
    """A weighted average of all outputs so far, with weights that decay.

    Output i of T has the weight `beta ** (T - i) * exp(q . rms_norm(output))`. It is
    kept as the average and the log of the summed weights, which does not overflow.
    """

    query: Float[Array, " dim"]
    decay: Float[Array, ""]
    """Logit of beta."""

    def __init__(self, dim: int):
        self.query = jnp.zeros(dim)
        self.decay = jnp.zeros(())

    def __call__(
        self,
        average: Float[Array, "*axes dim"],
        weight: Float[Array, "*axes dim"],
        output: Float[Array, "*axes dim"],
    ) -> tuple[Float[Array, "*axes dim"], Float[Array, "*axes dim"]]:
        """Return the average and the log of its weight with one more output."""
        wide = output.astype(jnp.float32)
        score = jnp.sum(rms_norm(wide, 1e-5) * self.query, axis=-1, keepdims=True)
        old = weight.astype(jnp.float32) + jax.nn.log_sigmoid(self.decay)
        total = jnp.logaddexp(old, score)
        share = jnp.exp(score - total)
        average = average.astype(jnp.float32)
        average += share * (wide - average)
        return average.astype(output.dtype), total.astype(output.dtype)


class InfiLoop(AbstractRecursion):
    """n times z takes in `f(z + y + x)`, then `y = f(y + z)`, with the same f.

    Source: arXiv 2610.11570, from the README of pixeli99/InfiLoop at 36d1418; its code
    is not public. Not told there, and our choice: z is the average and y is not, it
    continues over all cycles and supervision steps; q starts at 0, and beta at 1/2.
    """

    network: Network
    average: Average
    fresh_y: Buffer
    fresh_z: Buffer
    fresh_weight: Buffer
    refinements: int = eqx.field(static=True)

    def __init__(
        self, network: Network, dim: int, refinements: int, *, key: PRNGKeyArray
    ):
        y_key, z_key = jax.random.split(key)
        self.network = network
        self.average = Average(dim)
        self.fresh_y = fresh_latent(dim, y_key)
        self.fresh_z = fresh_latent(dim, z_key)
        self.fresh_weight = Buffer(jnp.full(dim, NOTHING))
        self.refinements = refinements

    def init(self) -> Three:
        return self.fresh_y(), self.fresh_z(), self.fresh_weight()

    def __call__(self, latents: Three, x: Float[Array, "*axes dim"]) -> Three:
        y, z, weight = latents
        for _ in range(self.refinements):
            z, weight = self.average(z, weight, self.network(z + (y + x)))
        return self.network(y + z), z, weight

    def answer(self, latents: Three) -> Float[Array, "*axes dim"]:
        return latents[0]
