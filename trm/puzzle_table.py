"""SignSGD on the rows of the puzzle table that a batch looked up.

The table is not differentiated: the step looks rows up, differentiates with respect to
the rows, and this file puts the gradients back. An ARC table has a million rows, of
which a step touches a few hundred.

Source: `models/sparse_embedding.py`, `CastedSparseEmbeddingSignSGD_Distributed`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def sign_sgd_rows(
    table: Float[Array, "puzzles width"],
    ids: Int[Array, " touches"],
    grads: Float[Array, "touches width"],
    *,
    lr: Float[Array, ""],
    weight_decay: float,
) -> Float[Array, "puzzles width"]:
    """Apply `p = p * (1 - lr * weight_decay) - lr * sign(g)` to the rows of `ids`.

    Gradients of a row are summed first, and each row is updated once. Other rows do
    not decay.

    Args:
        table: all rows.
        ids: rows that the global batch looked up, with repeats.
        grads: gradient with respect to each looked-up row.
        lr: learning rate of this update.
        weight_decay: multiplied by `lr`.
    """
    puzzles, touches = table.shape[0], ids.shape[0]
    touched, group = jnp.unique(
        ids, return_inverse=True, size=touches, fill_value=puzzles
    )
    summed = jax.ops.segment_sum(grads, group, num_segments=touches)
    rows = table.at[touched].get(mode="fill", fill_value=0.0)
    rows = rows * (1.0 - lr * weight_decay) - lr * jnp.sign(summed)
    return table.at[touched].set(rows, mode="drop")
