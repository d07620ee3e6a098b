import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import TRMConfig, UserError
from data.puzzles.board import BOXES
from train.muon import hidden_matrices
from trm.build import build_trm
from trm.units import UnitMixer
from trm.weights import to_official


@pytest.mark.parametrize("size", [4, 6])
@pytest.mark.parametrize("prefix", [0, 2])
def test_cells_see_their_units_cell_by_cell(size: int, prefix: int) -> None:
    box = BOXES[size]
    mixer = UnitMixer(box, 3, eps=1e-5, key=jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(prefix + size**2, 2, 3))
    weight = np.asarray(mixer.weight, np.float64)
    cells = [(i // size, i % size) for i in range(size**2)]
    same = [
        lambda a, b: a[0] == b[0],
        lambda a, b: a[1] == b[1],
        lambda a, b: (
            (a[0] // box.rows, a[1] // box.columns)
            == (b[0] // box.rows, b[1] // box.columns)
        ),
    ]
    expected = x.copy()
    for i, cell in enumerate(cells):
        for unit, matrix in zip(same, weight, strict=True):
            members = [prefix + j for j, other in enumerate(cells) if unit(cell, other)]
            assert len(members) == size
            expected[prefix + i] += x[members].mean(0) @ matrix
    expected[:prefix] += x[prefix:].mean(0) @ weight.sum(0)
    expected /= np.sqrt(np.square(expected).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(mixer(jnp.asarray(x, jnp.float32)), expected, atol=1e-5)


CONFIG = TRMConfig(mixer="units", dim=8, inner_multiple=8, puzzle_dim=8, prefix=1)


def test_a_model_of_units_and_its_matrices() -> None:
    """Which keeps to puzzles that are boards, and has no official form."""
    model = build_trm(CONFIG, vocab=6, seq=16, key=jax.random.key(0))
    axes = {name: axes.layers for name, axes in hidden_matrices(model).items()}
    assert axes[".recursion.network.blocks[0].mixer.weight"] == 1
    with pytest.raises(UserError, match="mixer=units"):
        to_official(model, CONFIG)
    with pytest.raises(UserError, match="got puzzles of 64 cells"):
        build_trm(CONFIG, vocab=6, seq=64, key=jax.random.key(0))
