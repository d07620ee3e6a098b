from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import TRMConfig, UserError
from data.puzzles.sudoku.board import BOXES
from train.muon import hidden_matrices
from trm.build import build_trm
from trm.official.names import to_official
from trm.symbols import SymbolEmbedding
from trm.units import UnitMixer


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


@pytest.mark.parametrize("size", [4, 6])
def test_a_cell_of_several_positions_sees_itself_too(size: int) -> None:
    box = BOXES[size]
    mixer = UnitMixer(box, 3, size, eps=1e-5, key=jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(1 + size**3, 3))
    digits = x[1:].reshape(size**2, size, 3)
    plain = UnitMixer(box, 3, eps=1e-5, key=jax.random.key(0))
    plain = eqx.tree_at(lambda m: m.weight, plain, mixer.weight[:3])
    scale = lambda a: a / np.sqrt(np.square(a).mean(-1, keepdims=True) + 1e-5)
    weight = np.asarray(mixer.weight, np.float64)
    own = digits.mean(1, keepdims=True) @ weight[3]
    row, column = np.divmod(np.arange(size**2), size)
    units = (row, column, box.of_cell)
    seen = sum(
        ((u[:, None] == u) / size) @ digits.transpose(1, 0, 2) @ w
        for u, w in zip(units, weight, strict=False)
    )
    expected = scale(digits + own + np.asarray(seen).transpose(1, 0, 2))
    found = mixer(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found[1:], expected.reshape(-1, 3), atol=1e-5)


def test_renamed_digits_change_nothing() -> None:
    config = replace(CONFIG, symbols=True, L_cycles=2)
    model = build_trm(config, vocab=6, seq=16, key=jax.random.key(0))
    inputs = np.random.default_rng(0).integers(1, 6, (2, 16))
    renamed = np.array([0, 1, 4, 2, 5, 3])
    spread = lambda a: jnp.broadcast_to(a, (2, model.length(16), 8))
    fresh = jax.tree.map(spread, model.recursion.init())

    def logits(inputs: np.ndarray) -> jax.Array:
        x = model.embed(jnp.asarray(inputs), jnp.ones((2, 8)))
        return model.predict(model.refine(fresh, x)).logits

    one, other = logits(inputs), logits(renamed[inputs])
    np.testing.assert_allclose(other[..., renamed], one, atol=1e-5)
    assert jnp.abs(other - one).max() > 0.1


def test_what_a_cell_says_of_each_digit() -> None:
    embedding = SymbolEmbedding(4, 2, key=jax.random.key(0))
    given, excluded, still_open = embedding.weight
    found = embedding(jnp.array([1, 3, 0]))  # empty, the digit 2, padding
    expected = [still_open] * 4 + [excluded, given, excluded, excluded]
    np.testing.assert_array_equal(found, jnp.stack(expected + [still_open] * 4))


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
    symbols = replace(CONFIG, symbols=True)
    with pytest.raises(UserError, match="got 81 cells and 6 tokens"):
        build_trm(symbols, vocab=6, seq=81, key=jax.random.key(0))
