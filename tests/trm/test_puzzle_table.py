import jax.numpy as jnp
import numpy as np

from trm.puzzle_table import sign_sgd_rows


def oracle(
    table: np.ndarray, ids: np.ndarray, grads: np.ndarray, lr: float, decay: float
) -> np.ndarray:
    """One touched row after the other."""
    table = table.copy()
    for row in np.unique(ids):
        gradient = grads[ids == row].sum(0)
        table[row] = table[row] * (1 - lr * decay) - lr * np.sign(gradient)
    return table


def test_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(9, 4)).astype(np.float32)
    ids = np.array([2, 5, 2, 2, 0, 8, 5])
    grads = rng.normal(size=(7, 4)).astype(np.float32)
    ours = sign_sgd_rows(
        jnp.asarray(table),
        jnp.asarray(ids),
        jnp.asarray(grads),
        lr=jnp.asarray(0.1),
        weight_decay=0.5,
    )
    np.testing.assert_allclose(ours, oracle(table, ids, grads, 0.1, 0.5), rtol=1e-6)
    untouched = [1, 3, 4, 6, 7]
    np.testing.assert_array_equal(ours[np.array(untouched)], table[untouched])


def test_opposite_gradients_of_one_row_cancel() -> None:
    table = jnp.ones((2, 1))
    ids, grads = jnp.array([1, 1]), jnp.array([[3.0], [-3.0]])
    ours = sign_sgd_rows(table, ids, grads, lr=jnp.asarray(0.5), weight_decay=0.0)
    np.testing.assert_array_equal(ours, table)
