"""Places of the tokens of a row, and rotary angles in three axes."""

import jax.numpy as jnp
import numpy as np
import pytest

from data.puzzles.arc.rows import FIRST_TASK, prompt_of, row_of
from gpt.layers import rotate_pairs, turn
from gpt.places import angles_of, places_of
from tests.rows import plain_places

RNG = np.random.default_rng(0)


def grid(rows: int, columns: int) -> np.ndarray:
    return RNG.integers(0, 10, (rows, columns), np.uint8)


def test_a_row() -> None:
    labels = np.array([FIRST_TASK, 13], np.int32)
    row = row_of(prompt_of(labels, grid(1, 2)), grid(2, 1))
    expected = [
        *[(0, 0, 0)] * 2,
        *[(0, 0, 1), (1, 0, 1), (2, 0, 1)],
        (0, 0, 2),
        *[(0, 0, 3), (1, 0, 3), (0, 1, 3), (1, 1, 3)],
        (0, 0, 4),
    ]
    got = np.asarray(places_of(jnp.asarray(row[None])))[0]
    assert [tuple(place) for place in got.tolist()] == expected


def test_any_tokens() -> None:
    """Also a model's wrong answers."""
    tokens = RNG.integers(0, 13, (40, 60))
    tokens[:, :2] = 13, 30
    got = np.asarray(places_of(jnp.asarray(tokens)))
    np.testing.assert_array_equal(got, [plain_places(row) for row in tokens])


@pytest.mark.parametrize("axis", range(3))
def test_one_axis_is_plain_rope(axis: int) -> None:
    """With two coordinates of zero, its pairs turn as in `turn`, the others do not."""
    theta, half, third = 100.0, 8, 2
    x = RNG.normal(size=(1, 9, 2, 2 * half)).astype(np.float32)
    places = np.zeros((1, 9, 3), np.int32)
    places[..., axis] = RNG.integers(0, 30, 9)
    got = rotate_pairs(jnp.asarray(x), angles_of(jnp.asarray(places), 2 * half, theta))
    pairs = np.arange(axis * third, half if axis == 2 else (axis + 1) * third)
    own = np.concatenate([pairs, pairs + half])
    positions = places[0, :, axis].astype(np.float32)
    expected = x.copy()
    expected[..., own] = turn(jnp.asarray(x[..., own]), theta, positions)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_scores_depend_on_differences_of_places() -> None:
    query, key = jnp.asarray(RNG.normal(size=(2, 1, 5, 1, 24)), jnp.float32)
    places = RNG.integers(0, 10, (1, 5, 3))

    def scores(places: np.ndarray) -> np.ndarray:
        angles = angles_of(jnp.asarray(places), 24, 1e4)
        q, k = rotate_pairs(query, angles), rotate_pairs(key, angles)
        return np.einsum("blhd,bmhd->blm", q, k)

    before = scores(places)
    np.testing.assert_allclose(scores(places + np.array([7, 3, 1])), before, atol=1e-4)
    for axis in np.eye(3, dtype=int):
        changed = places.copy()
        changed[0, 0] += axis
        assert np.abs(before - scores(changed))[0, 0, 1:].min() > 1e-4
