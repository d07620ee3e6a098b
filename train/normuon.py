"""NorMuon: neurons of equal size in the updates of Muon.

Source: Li et al. 2025, arXiv 2510.05491, algorithm 1.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

EPS = 1e-8

Matrices = dict[str, Float[Array, "_ _ _"]]
"""By path: `matrices rows columns`, of different sizes."""

Moments = dict[str, Float[Array, "_ _"]]
"""By path: `matrices columns`."""


def normalize_neurons(beta2: float) -> optax.GradientTransformation:
    """Divide orthogonal matrices by the running size of each neuron's update.

    A neuron is a column: the weights of one output (a row in the paper, as in PyTorch).
    The result has the norm of an orthogonal matrix, the root of its smaller side; the
    paper's factor `0.2 lr sqrt(rows columns) / norm` is this times Muon's own.

    Args:
        beta2: decay of the mean square.
    """

    def init(matrices: Matrices) -> Moments:
        return jax.tree.map(lambda x: jnp.zeros_like(x[:, 0]), matrices)

    def update(
        matrices: Matrices, moments: Moments, params: Matrices | None = None
    ) -> tuple[Matrices, Moments]:
        del params
        moments = jax.tree.map(
            lambda v, x: beta2 * v + (1 - beta2) * jnp.mean(x * x, axis=1),
            moments,
            matrices,
        )
        return jax.tree.map(_divide, matrices, moments), moments

    # optax types its callables for any tree and extra arguments.
    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def _divide(
    x: Float[Array, "matrices rows columns"], moment: Float[Array, "matrices columns"]
) -> Float[Array, "matrices rows columns"]:
    x = x / (jnp.sqrt(moment) + EPS)[:, None]
    norm = jnp.sqrt(jnp.sum(x * x, axis=(1, 2), keepdims=True))
    size = min(x.shape[1:]) ** 0.5
    return x * (size / jnp.maximum(norm, EPS))  # a gradient of 0 stays 0
