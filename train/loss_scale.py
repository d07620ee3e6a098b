"""Dynamic loss scaling, so that small gradients survive float16.

Source: Micikevicius et al. 2018, arXiv 1710.03740; constants of PyTorch's `GradScaler`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

INITIAL, PATIENCE = 2.0**16, 2000


class LossScale(eqx.Module):
    """The factor on the loss, and the updates made since it last changed."""

    factor: Float[Array, ""]
    good: Int[Array, ""]

    def __init__(self):
        self.factor = jnp.array(INITIAL, jnp.float32)
        self.good = jnp.zeros((), jnp.int32)

    def after(self, finite: Bool[Array, ""]) -> "LossScale":
        """Half after an overflow, double after `PATIENCE` updates without one."""
        grown = self.good + 1 == PATIENCE
        factor = jnp.where(grown, 2.0 * self.factor, self.factor)
        return eqx.tree_at(
            lambda s: (s.factor, s.good),
            self,
            (
                jnp.where(finite, factor, 0.5 * self.factor),
                jnp.where(finite & ~grown, self.good + 1, 0),
            ),
        )


def all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    """Whether every number is finite."""
    return jnp.all(jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]))


def choose(flag: Bool[Array, ""], yes: PyTree, no: PyTree) -> PyTree:
    """One of two trees."""
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), yes, no)
