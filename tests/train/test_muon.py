"""Muon on the matrices of hidden layers, for both models and on any mesh."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array

from configs import GPTConfig, OptimConfig, RunConfig, UserError
from gpt.layers import Linear, Stacked
from gpt.model import build_gpt
from tests import tiny
from tests.tiny import assert_close, assert_equal
from train.muon import hidden_matrices, with_muon
from train.optim import Optimizer, make_tx
from train.runs.checkpoint import Checkpoints
from train.state import TrainState, abstract_state, init_state
from train.step import make_train_step

LR, DECAY, RATE, BETA = 0.1, 0.3, 4.0, 0.95
CONFIG = OptimConfig(
    name="adamw", weight_decay=DECAY, ema=0.0, muon=True, muon_rate=RATE
)


class Layer(eqx.Module):
    """Two matrices side by side, a matrix with two axes of inputs, and a vector."""

    fused: Linear
    heads: Array
    gain: Array
    matrices: ClassVar[dict[str, tuple[int, int]]] = {
        "fused.weight": (1, 2),
        "heads": (2, 1),
    }

    def __init__(self, key: Any):
        keys = jax.random.split(key, 3)
        self.fused = Linear(4, 2 * 3, key=keys[0])
        self.heads = jax.random.normal(keys[1], (2, 3, 5))
        self.gain = jax.random.normal(keys[2], (4,))


class Model(eqx.Module):
    """Stacked layers, and a matrix outside of the hidden layers."""

    layers: Stacked
    head: Linear

    def __init__(self):
        keys = jax.random.split(jax.random.key(0), 3)
        self.layers = Stacked(Layer, keys[:2])
        self.head = Linear(4, 7, key=keys[2])


def constant(count: Any) -> Array:
    return jnp.asarray(LR, jnp.float32)


def orthogonalize(x: np.ndarray, steps: int) -> np.ndarray:
    """Source: `KellerJordan/Muon`, `zeropower_via_newtonschulz5`."""
    turned = x.shape[0] > x.shape[1]
    x = x.T if turned else x
    x = x / (np.linalg.norm(x) + 1e-8)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if turned else x


def updated(tx: Any, model: Any) -> tuple[list[Any], Any]:
    """Return the drawn gradients of four updates, and the resulting model."""
    state, every = tx.init(model), []
    for t in range(1, 5):
        rng = np.random.default_rng(t)
        draw = lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32)  # noqa: B023
        every.append(jax.tree.map(draw, model))
        updates, state = tx.update(every[-1], state, model)
        model = optax.apply_updates(model, updates)
    return every, model


def matrices_of(model: Any) -> list[np.ndarray]:
    """Return each hidden matrix of `Model`, sliced by hand."""
    layers, hidden = model.layers.layers, []
    for layer in range(2):
        fused = np.asarray(layers.fused.weight[layer], np.float64)
        heads = np.asarray(layers.heads[layer], np.float64)
        hidden += [fused[:, :3], fused[:, 3:], heads.reshape(6, 5)]
    return hidden


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("steps", [5, 2])
def test_against_numpy(nesterov: bool, steps: int) -> None:
    model: Any = Model()
    tx: Any = make_tx(
        replace(CONFIG, muon_nesterov=nesterov, muon_steps=steps), constant
    )
    expected = matrices_of(model)
    moments = [np.zeros_like(x) for x in expected]
    gradients, model = updated(tx, model)
    for t, grads in enumerate(gradients, start=1):
        for i, g in enumerate(matrices_of(grads)):
            moments[i] = BETA * moments[i] + (1 - BETA) * g
            mean = moments[i] / (1 - BETA**t)
            if nesterov:
                ahead = moments[i] / (1 - BETA ** (t + 1))
                mean = BETA * ahead + (1 - BETA) * g / (1 - BETA**t)
            size = 0.2 * np.sqrt(max(g.shape))
            change = size * orthogonalize(mean, steps) + DECAY * expected[i]
            expected[i] = expected[i] - RATE * LR * change
    for actual, matrix in zip(matrices_of(model), expected, strict=True):
        np.testing.assert_allclose(actual, matrix, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beta2", [0.95, 0.5])
def test_normuon_against_its_formula(beta2: float) -> None:
    """Source: arXiv 2510.05491, algorithm 1; there a neuron is a row."""
    model: Any = Model()
    config = replace(CONFIG, muon_beta2=beta2, muon_nesterov=False)
    tx: Any = make_tx(config, constant)
    weights = [x.T for x in matrices_of(model)]
    means = [np.zeros_like(x) for x in weights]
    squares = [np.zeros((len(x), 1)) for x in weights]
    gradients, model = updated(tx, model)
    for grads in gradients:
        for i, g in enumerate(x.T for x in matrices_of(grads)):
            means[i] = BETA * means[i] + (1 - BETA) * g
            o = orthogonalize(means[i], 5)
            square = (o**2).mean(axis=1, keepdims=True)
            squares[i] = beta2 * squares[i] + (1 - beta2) * square
            o /= np.sqrt(squares[i]) + 1e-8
            rate = 0.2 * RATE * LR * np.sqrt(o.size) / np.linalg.norm(o)
            weights[i] -= RATE * LR * DECAY * weights[i] + rate * o
    for actual, expected in zip(matrices_of(model), weights, strict=True):
        np.testing.assert_allclose(actual, expected.T, rtol=1e-4, atol=1e-5)


def test_normuon_moves_neurons_alike_and_leaves_a_zero_gradient() -> None:
    model: Any = Model()
    config = replace(CONFIG, weight_decay=0.0, muon_beta2=0.95)
    tx: Any = make_tx(config, constant)
    grads = eqx.tree_at(
        lambda m: m.layers.layers.heads,
        jax.tree.map(lambda p: p * p + 0.1, model),
        jnp.zeros_like(model.layers.layers.heads),
    )
    updates, _ = tx.update(grads, tx.init(model), model)
    for i, update in enumerate(matrices_of(updates)):
        if i % 3 == 2:  # the heads of a layer
            assert not update.any()
            continue
        sizes = np.sqrt((update**2).mean(axis=0))  # 0.2 lr for each neuron at first
        np.testing.assert_allclose(sizes, 0.2 * RATE * LR, rtol=1e-5)


def test_other_updates_do_not_change() -> None:
    model = Model()
    grads = jax.tree.map(lambda p: p + 0.3, model)
    pairs = []
    for config in (CONFIG, replace(CONFIG, muon=False)):
        tx: Any = make_tx(config, constant)
        updates, _ = tx.update(grads, tx.init(model), model)
        pairs.append((updates.head.weight, updates.layers.layers.gain))
    assert_equal(*pairs)


def test_decay_apart_for_hidden_matrices_and_the_rest() -> None:
    """Of zero gradients only the decay is left."""
    model: Any = Model()
    tx: Any = make_tx(replace(CONFIG, muon_decay=0.02), constant)
    zeros = jax.tree.map(jnp.zeros_like, model)
    updates, _ = tx.update(zeros, tx.init(model), model)
    for actual, matrix in zip(matrices_of(updates), matrices_of(model), strict=True):
        np.testing.assert_allclose(actual, -LR * RATE * 0.02 * matrix, atol=1e-7)
    for pick in (lambda m: m.head.weight, lambda m: m.layers.layers.gain):
        np.testing.assert_allclose(pick(updates), -LR * DECAY * pick(model), atol=1e-7)


def test_cautious_decay_of_hidden_matrices_and_the_rest() -> None:
    model: Any = Model()
    grads = jax.tree.map(lambda p: p[..., ::-1], model)  # of both signs
    plain = replace(CONFIG, muon_decay=0.02)
    without, always, cautious = (
        tx.update(grads, tx.init(model), model)[0]
        for config in (
            replace(plain, weight_decay=0.0, muon_decay=0.0),
            plain,
            replace(plain, cautious=True),
        )
        for tx in [make_tx(config, constant)]
    )
    for weight, u, decayed, actual in zip(
        *map(jax.tree.leaves, (model, without, always, cautious)), strict=True
    ):
        agrees = (-u * weight) > 0  # a step is the update times a negative rate
        assert 0 < agrees.sum() < agrees.size
        np.testing.assert_array_equal(actual, jnp.where(agrees, decayed, u))


def test_against_optax() -> None:
    """Against `optax.contrib.muon` on one matrix."""

    class Plain(eqx.Module):
        weight: Array
        matrices: ClassVar[dict[str, tuple[int, int]]] = {"weight": (1, 1)}

    model = Plain(jax.random.normal(jax.random.key(1), (6, 4)))
    tested: Any = make_tx(replace(CONFIG, muon_rate=1.0), constant)
    reference: Any = optax.contrib.muon(LR, weight_decay=DECAY, consistent_rms=0.2)
    moved: list[Any] = [model, {"w": model.weight}]
    states = [tested.init(model), reference.init(moved[1])]
    for t in range(3):
        grad = jax.random.normal(jax.random.key(t), (6, 4))
        pairs = ((tested, Plain(grad)), (reference, {"w": grad}))
        for i, (tx, grads) in enumerate(pairs):
            updates, states[i] = tx.update(grads, states[i], moved[i])
            moved[i] = optax.apply_updates(moved[i], updates)
    np.testing.assert_allclose(moved[0].weight, moved[1]["w"], rtol=1e-5, atol=1e-6)


GPT = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, bias=True)


def test_hidden_matrices_of_a_gpt() -> None:
    hidden = hidden_matrices(build_gpt(GPT, tokens=24, key=jax.random.key(0)))
    names = {name.removeprefix(".blocks.layers.") for name in hidden}
    expected = {"qkv", "attention_out", "up", "down"}
    assert names == {f"{name}.weight" for name in expected}
    assert hidden[".blocks.layers.qkv.weight"] == (1, 1, 3)


@pytest.mark.parametrize(
    ("mixer", "mixing"),
    [("attention", {"mixer.qkv", "mixer.out"}), ("mlp", {"mixer.mlp.gate_up"})],
)
def test_hidden_matrices_of_a_trm(mixer: Any, mixing: set[str]) -> None:
    config = replace(tiny.MODEL, mixer=mixer, positions="none")
    hidden = hidden_matrices(tiny.model(config))
    names = {name.removeprefix(".recursion.network.blocks[0].") for name in hidden}
    assert names >= {*mixing, "mlp.gate_up", "mlp.down"}
    assert all(name.startswith(".recursion.network") for name in hidden)


def optimizer() -> Optimizer:
    """Muon, and SGD for the rest: AdamATan2 would amplify rounding."""
    muon = with_muon(OptimConfig(muon=True, muon_beta2=0.95), optax.identity())
    return tiny.optimizer(optax.chain(muon, optax.scale(-0.1)))


def trained(sizes: tuple[int, int], steps: int = 2) -> TrainState:
    mesh = tiny.mesh_of(*sizes)
    state = init_state(tiny.init(optimizer()), mesh)
    step = make_train_step(tiny.objective(), optimizer(), mesh, tiny.PLAN, state)
    for t in range(steps):
        state, _ = step(state, tiny.batch(mesh, t))
    return tiny.host(state)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(4, 2), (8, 1), (1, 8)])
def test_meshes_compute_the_same(sizes: tuple[int, int]) -> None:
    """A matrix is split over `model`, but orthogonalized whole."""
    actual, expected = trained(sizes), trained((1, 1))
    assert_close(actual.model, expected.model, 1e-4)
    assert_close(actual.opt_state, expected.opt_state, 1e-4)


@pytest.mark.slow
def test_restored_bit_for_bit(tmp_path: Path) -> None:
    mesh = tiny.mesh_of(4, 2)
    rules = tiny.optimizer(make_tx(replace(CONFIG, name="adam_atan2"), constant))
    first = tiny.init(rules)
    state = init_state(first, mesh)
    step = make_train_step(tiny.objective(), rules, mesh, tiny.PLAN, state)
    state, _ = step(state, tiny.batch(mesh, 0))
    saved = Checkpoints(tmp_path, RunConfig())
    saved.save(state)
    saved.wait()
    restored = saved.restore(lambda step: abstract_state(first, mesh))
    assert restored is not None
    saved.close()
    assert_equal(step(restored, tiny.batch(mesh, 1)), step(state, tiny.batch(mesh, 1)))


@pytest.mark.parametrize(
    "bad",
    [
        {"muon_momentum": 1.0},
        {"muon_rate": 0.0},
        {"muon_steps": 0},
        {"muon_beta2": 1.0, "muon": True},
        {"muon_beta2": 0.95},
    ],
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        OptimConfig(**bad)
