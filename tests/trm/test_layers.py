from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import TRMConfig, UserError
from gpt.attention import Kernel, attend
from gpt.layers import truncated_normal
from tests.tiny import assert_close
from train.optim import split_trainable
from train.presets import TRM_PRESETS
from trm.build import build_trm
from trm.conv_swiglu import ConvSwiGLU
from trm.layers import (
    AbstractMixer,
    AttentionMixer,
    SwiGLU,
    TokenMLP,
    find_mixers,
    rms_norm,
    rotate,
    rotate_board,
    swiglu_width,
)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def test_truncated_normal_has_the_asked_deviation() -> None:
    values = truncated_normal(jax.random.key(0), (200_000,), 0.1)
    assert float(values.std()) == pytest.approx(0.1, rel=0.01)
    assert float(jnp.abs(values).max()) <= 0.1 * 2 / 0.8796 * 1.0001


@pytest.mark.parametrize(
    ("width", "inner"), [(512, 1536), (97, 512), (916, 2560), (32, 256)]
)
def test_swiglu_width(width: int, inner: int) -> None:
    assert swiglu_width(width, 4.0) == inner


def test_swiglu_width_in_finer_steps() -> None:
    assert swiglu_width(32, 4.0, 32) == 96
    assert swiglu_width(64, 4.0, 1) == 171


def test_swiglu_is_its_formula_on_either_axis() -> None:
    layer = SwiGLU(5, 4.0, key=jax.random.key(0))
    x = np.asarray(normal(3, 4, 5), np.float64)
    gate, up = np.split(x @ np.asarray(layer.gate_up, np.float64), 2, axis=-1)
    expected = (gate / (1 + np.exp(-gate)) * up) @ np.asarray(layer.down, np.float64)
    np.testing.assert_allclose(layer(jnp.asarray(x, jnp.float32)), expected, atol=1e-5)
    first = jnp.asarray(np.moveaxis(x, -1, 0), jnp.float32)
    np.testing.assert_allclose(
        jnp.moveaxis(layer.over_first_axis(first), 0, -1), expected, atol=1e-5
    )


def test_a_normed_gate_is_its_formula_on_either_axis() -> None:
    layer = SwiGLU(5, 4.0, 8, normed=True, key=jax.random.key(0))
    x = np.asarray(normal(3, 4, 5), np.float64)
    gate, up = np.split(x @ np.asarray(layer.gate_up, np.float64), 2, axis=-1)
    inside = gate * up / np.sqrt(np.square(gate * up).mean(-1, keepdims=True) + 1e-5)
    expected = (inside / (1 + np.exp(-gate))) @ np.asarray(layer.down, np.float64)
    np.testing.assert_allclose(layer(jnp.asarray(x, jnp.float32)), expected, atol=1e-5)
    first = jnp.asarray(np.moveaxis(x, -1, 0), jnp.float32)
    np.testing.assert_allclose(
        jnp.moveaxis(layer.over_first_axis(first), 0, -1), expected, atol=1e-5
    )


@pytest.mark.parametrize("axis", [0, -2])
def test_a_conv_swiglu_is_its_formula_on_either_axis(axis: int) -> None:
    """Position by position, as `torch.nn.Conv1d` with kernel 2 and padding 1, cut."""
    layer = ConvSwiGLU(5, 4.0, 8, axis=axis, key=jax.random.key(0))
    wide = lambda a: np.asarray(a, np.float64)
    silu = lambda a: a / (1 + np.exp(-a))
    x = wide(normal(6, 5))
    gate, up = np.split(x @ wide(layer.gate_up), 2, axis=-1)
    hidden = silu(gate) * up
    expected = []
    for i, now in enumerate(hidden):
        before = hidden[i - 1] if i else np.zeros_like(now)
        mixed = wide(layer.taps[0]) * before + wide(layer.taps[1]) * now
        expected.append(silu(mixed + wide(layer.bias)) @ wide(layer.down))
    batch = jnp.stack([normal(6, 5), normal(6, 5, seed=1)])
    batch = jnp.moveaxis(batch, 1, axis)
    result = jnp.moveaxis(layer(batch), axis, 1)
    np.testing.assert_allclose(result[0], expected, atol=1e-5)
    grads = jax.grad(lambda layer: jnp.sum(jnp.sin(layer(batch))))(layer)
    assert all(bool(jnp.isfinite(g).all() & g.any()) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(("mixer", "axis"), [("attention", -2), ("mlp", 0)])
def test_a_conv_gate_knows_the_axis_of_positions(mixer: Any, axis: int) -> None:
    config = TRMConfig(mixer=mixer, gate="conv", dim=8, heads=2, puzzle_dim=8, prefix=1)
    model: Any = jax.eval_shape(
        lambda: build_trm(config, vocab=6, seq=4, key=jax.random.key(0))
    )
    assert model.recursion.network.blocks[0].mlp.axis == axis


def test_rms_norm_is_its_formula_and_keeps_the_type() -> None:
    x = normal(6, 7)
    expected = x / np.sqrt(np.mean(np.square(x), axis=0, keepdims=True) + 1e-5)
    np.testing.assert_allclose(rms_norm(x, 1e-5, axis=0), expected, rtol=1e-6)
    assert rms_norm(x.astype(jnp.bfloat16), 1e-5).dtype == jnp.bfloat16


def test_rope_depends_on_distance_only() -> None:
    query = jnp.broadcast_to(normal(8), (12, 1, 8))
    key = jnp.broadcast_to(normal(8, seed=1), (12, 1, 8))
    scores = jnp.einsum("lhk,mhk->lm", rotate(query, 1e4), rotate(key, 1e4))
    for distance in range(-5, 6):
        diagonal = jnp.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rotate(query, 1e4)[0], query[0])


def test_rope_of_a_board_turns_by_row_and_column() -> None:
    """Half of a head each; prefix and padding are not turned."""
    x = normal(1 + 9 + 2, 2, 8)
    turned = rotate_board(x, 1e4, 1, 3)
    for i in (0, 10, 11):
        np.testing.assert_array_equal(turned[i], x[i])
    grid, result = np.asarray(x[1:10]).reshape(3, 3, 2, 8), turned[1:10]
    for row, column in np.ndindex(3, 3):
        for start, number in ((0, row), (4, column)):
            for i, frequency in enumerate((1.0, 1e-2)):
                pair = grid[row, column, :, start + i : start + 4 : 2]
                wave = np.exp(1j * number * frequency)
                expected = (pair[:, 0] + 1j * pair[:, 1]) * wave
                actual = result[3 * row + column, :, start + i : start + 4 : 2]
                np.testing.assert_allclose(actual[:, 0], expected.real, atol=1e-5)
                np.testing.assert_allclose(actual[:, 1], expected.imag, atol=1e-5)


def test_a_board_must_be_square() -> None:
    config = replace(
        TRMConfig(mixer="attention", positions="rope2d"),
        dim=8,
        heads=2,
        prefix=1,
        puzzle_dim=8,
    )
    with pytest.raises(UserError, match=r"square board.*12"):
        build_trm(config, vocab=6, seq=12, key=jax.random.key(0))


def test_attend_against_numpy() -> None:
    query, key, value = normal(2, 5, 3, 4), normal(2, 6, 3, 4), normal(2, 6, 3, 4)
    expected = np.zeros((2, 5, 3, 4))
    for b, h in np.ndindex(2, 3):
        scores = np.asarray(query[b, :, h] @ key[b, :, h].T, np.float64) / 2.0
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        expected[b, :, h] = weights @ np.asarray(value[b, :, h], np.float64)
    np.testing.assert_allclose(attend(query, key, value), expected, atol=1e-5)


def test_attention_without_positions_does_not_see_order() -> None:
    mixer = AttentionMixer(
        6, 8, 2, rope_theta=None, eps=1e-5, kernel="xla", key=jax.random.key(0)
    )
    x = normal(6, 8)
    order = np.array([3, 1, 5, 0, 2, 4])
    np.testing.assert_allclose(mixer(x)[order], mixer(x[order]), atol=1e-5)


def test_token_mlp_mixes_positions_of_one_feature_only() -> None:
    mixer = TokenMLP(6, 4.0, eps=1e-5, key=jax.random.key(0))
    reach = jax.jacobian(lambda x: mixer(x))(normal(6, 4))
    reach = np.abs(reach).max(axis=(0, 2))
    np.testing.assert_array_equal(reach > 0, np.eye(4, dtype=bool))


def score_and_grads(config: TRMConfig, kernel: Kernel, padding: int) -> Any:
    """Build a model that appends `padding` positions; return a score and gradients."""
    inputs, rows = jnp.array([[1, 2, 3]] * 2), normal(2, 8)
    model = build_trm(config, vocab=5, seq=3, kernel=kernel, key=jax.random.key(0))
    assert model.padding == padding

    def score(model: Any) -> jax.Array:
        x = model.embed(inputs, rows)
        fresh = jax.tree.map(
            lambda a: jnp.broadcast_to(a, x.shape), model.recursion.init()
        )
        return jnp.sum(jnp.sin(model.predict(model.refine(fresh, x)).logits))

    value, grads = eqx.filter_jit(eqx.filter_value_and_grad(score))(model)
    return value, jax.tree.leaves(grads)


SIZES: Any = {"dim": 8, "heads": 2, "puzzle_dim": 8, "prefix": 2, "L_cycles": 2}


def test_padding_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A position appended for a kernel is not seen, nor has it a gradient."""
    config = TRMConfig(mixer="attention", **SIZES)
    plain = score_and_grads(config, "xla", 0)
    monkeypatch.setattr("trm.layers.padding", lambda kernel, length: 1)
    assert_close(score_and_grads(config, "xla", 1), plain, 1e-5)


def test_tiles_change_nothing() -> None:
    """A token MLP in the layout of a TPU, with 3 appended positions."""
    # Few applications, because each magnifies rounding.
    config = TRMConfig(mixer="mlp", H_cycles=1, **(SIZES | {"L_cycles": 1}))
    plain = score_and_grads(config, "xla", 0)
    assert_close(score_and_grads(config, "tiles", 3), plain, 1e-5)


@pytest.mark.parametrize("mixer", ["attention", "mlp"])
def test_a_batch_is_its_puzzles(mixer: Any) -> None:
    """Whatever the layout inside, puzzles do not see each other."""
    config = TRMConfig(mixer=mixer, dim=8, heads=2, puzzle_dim=8, prefix=2, L_cycles=2)
    model = build_trm(config, vocab=5, seq=4, key=jax.random.key(0))
    inputs = jax.random.randint(jax.random.key(1), (3, 4), 0, 5)
    rows = normal(3, 8)
    fresh = jax.tree.map(
        lambda a: jnp.broadcast_to(a, (3, 6, 8)), model.recursion.init()
    )
    refine = eqx.filter_jit(model.refine)
    together = refine(fresh, model.embed(inputs, rows))
    for i in range(3):
        alone = refine(
            jax.tree.map(lambda a, i=i: a[i], fresh), model.embed(inputs[i], rows[i])
        )
        for a, b in zip(*map(jax.tree.leaves, (together, alone)), strict=True):
            np.testing.assert_allclose(a[i], b, atol=2e-5)


@pytest.mark.parametrize(
    ("preset", "vocab", "parameters"),
    [
        ("sudoku", 11, 5_028_866),
        ("sudoku-attention", 11, 6_828_034),
        ("arc1", 12, 6_829_058),
    ],
)
def test_parameter_counts_of_the_paper(
    preset: str, vocab: int, parameters: int
) -> None:
    """Trained parameters: 5M and 7M in the paper; buffers are not counted."""
    config = TRM_PRESETS[preset][1].model
    model = jax.eval_shape(
        lambda: build_trm(config, vocab=vocab, seq=81, key=jax.random.key(0))
    )
    trained, _ = split_trainable(model)
    assert sum(leaf.size for leaf in jax.tree.leaves(trained)) == parameters


class Shift(AbstractMixer):
    """Each position sees the one before it: a mixer of one's own, positions first."""

    positions_first = True

    def __call__(self, x: jax.Array) -> jax.Array:
        return rms_norm(x + jnp.roll(x, 1, axis=0), 1e-5, axis=0)


def test_a_mixer_says_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the configuration: as many puzzles as positions would go unnoticed."""
    monkeypatch.setattr("trm.build.build_mixer", lambda *_: Shift())  # pyright: ignore[reportCallIssue]
    config = TRMConfig(mixer="attention", dim=8, puzzle_dim=8, prefix=1, L_cycles=2)
    model = build_trm(config, vocab=5, seq=3, key=jax.random.key(0))
    rows = normal(4, 8)
    fresh = jax.tree.map(
        lambda a: jnp.broadcast_to(a, (4, 4, 8)), model.recursion.init()
    )

    def answer(inputs: jax.Array) -> jax.Array:
        refined = model.refine(fresh, model.embed(inputs, rows))
        return model.predict(refined).logits

    inputs = jnp.array([[1, 2, 3]] * 4)
    changed = answer(inputs.at[0, 0].set(4)) - answer(inputs)
    assert jnp.abs(changed[0]).max() > 1e-3
    np.testing.assert_array_equal(changed[1:], 0.0)


def test_mixers_of_two_layouts_are_refused() -> None:
    attention = AttentionMixer(
        4, 8, 2, rope_theta=None, eps=1e-5, kernel="xla", key=jax.random.key(0)
    )
    with pytest.raises(ValueError, match="one layout"):
        find_mixers((Shift(), attention))  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match="one layout"):
        find_mixers(())
