"""Sums in float32 in a model that computes in 16 bits."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jaxtyping import PyTree

import gpt.model
import trm.model
from configs import GPTConfig, TrainGPT
from data.text.dataset import Tokens
from gpt.layers import Linear
from gpt.model import build_gpt
from tests import tiny
from train.experiment import StepConfig
from train.gpt import GPTExperiment
from train.gradients import make_gradients
from train.state import new_state
from trm.layers import Network
from trm.recursion import deep_recursion
from trm.variants.two_latent import TwoLatent

HALF = jnp.dtype("bfloat16")


def errors(actual: PyTree, exact: PyTree) -> dict[str, float]:
    """Return the relative error of each array, in the 2-norm."""
    leaves = zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(exact), strict=True)
    norm = lambda a: np.linalg.norm(np.asarray(a, np.float64))
    return {
        jax.tree_util.keystr(path): norm(np.float64(a) - np.float64(b)) / norm(b)
        for (path, a), b in leaves
    }


class Untied(eqx.Module):
    """Copies of a network, one per call in a cycle."""

    copies: tuple[Network, ...]
    calls: list[int] = eqx.field(static=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        self.calls.append(len(self.calls) % len(self.copies))
        return self.copies[self.calls[-1]](x)


@pytest.mark.parametrize(
    "mixer", [pytest.param("attention", marks=pytest.mark.slow), "mlp"]
)
@pytest.mark.slow
def test_gradients_of_all_uses_of_a_weight_add_up_in_float32(mixer: str) -> None:
    """They equal the sum of the gradients of copies, one per use."""
    positions = "rope" if mixer == "attention" else "none"
    config = replace(tiny.MODEL, mixer=mixer, positions=positions, L_cycles=6)
    model = trm.model.cast(tiny.model(config), HALF)
    recursion, length = model.recursion, model.prefix + tiny.SEQ
    assert isinstance(recursion, TwoLatent)
    x = jax.random.normal(jax.random.key(5), (length, 16, tiny.MODEL.dim), HALF)
    latents = (0.5 * x, -x)

    def loss(network: Any) -> jax.Array:
        variant = eqx.tree_at(lambda r: r.network, recursion, network)
        y, z = deep_recursion(variant, latents, x, 1)
        return jnp.sum(jnp.sin(y.astype(jnp.float32)) + jnp.cos(z.astype(jnp.float32)))

    tied = jax.grad(loss)(recursion.network)
    copies = jax.grad(loss)(Untied((recursion.network,) * 7, [])).copies
    exact = jax.tree.map(lambda *grads: sum(map(np.float64, grads)), *copies)
    assert max(errors(tied, exact).values()) < 1e-6


def gradients(
    objective: Any, model: Any, table: Any, batch: Any, precision: Any, mesh: Mesh
) -> tuple[PyTree, PyTree]:
    """Return the first step's gradients of the model and of the table's rows."""
    size = jax.tree.leaves(batch)[0].shape[0]
    config = StepConfig(batch_size=size, precision=precision, seed=0)
    carry = objective.init_carry(objective.cast(model, config.dtype), size)
    state = new_state(model, table, carry, optax.sgd(0.1), ema=False)
    made = make_gradients(objective, mesh, config, state, refill=True)
    grads, (_, rows), _, _ = tiny.gradients(
        made, state, jax.tree.map(lambda a: jnp.asarray(a)[None], batch)
    )
    return grads, rows


@pytest.mark.slow
def test_a_token_that_is_frequent_in_a_puzzle(one_device: Mesh) -> None:
    """The gradient of its vector is a sum of thousands of rows."""
    config = replace(tiny.MODEL, H_cycles=1, L_cycles=1)
    model, table = tiny.model(config), jnp.ones((tiny.PUZZLES, config.puzzle_dim))
    batch = tiny.puzzles(0, 1024)
    batch.inputs[:, 2:] = 3
    of = lambda precision: gradients(
        tiny.objective(), model, table, batch, precision, one_device
    )[0].embedding.weight[3]
    assert errors(of("bfloat16"), of("float32"))[""] < 0.02


MODERN: dict[str, Any] = {
    "positions": "rope",
    "norm": "rms",
    "qk_norm": True,
    "activation": "relu2",
    "tied_head": False,
    "logit_cap": 15.0,
}


def gpt_case(options: dict[str, Any] | None = None) -> tuple[gpt.model.GPT, Tokens]:
    config = GPTConfig(
        n_layer=2, n_head=2, n_embd=32, block_size=64, bias=True, **(options or {})
    )
    model = build_gpt(config, tokens=20, key=jax.random.key(0))
    drawn = np.random.default_rng(0).integers(0, 20, (64, 65)).astype(np.int32) ** 2
    return model, Tokens(drawn[:, :-1] % 20, drawn[:, 1:] % 20)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, MODERN, MODERN | {"activation": "swiglu"}])
def test_a_gpt_in_16_bits_follows_float32(
    options: dict[str, Any], one_device: Mesh
) -> None:
    """In all gradients, also of biases and vectors, which are sums over all tokens."""
    model, batch = gpt_case(options)
    objective = GPTExperiment(TrainGPT(model=GPTConfig(loss_chunk=10**6)), sizes={})
    half, full = (
        gradients(objective, model, (), batch, precision, one_device)[0]
        for precision in ("bfloat16", "float32")
    )
    # Softmax does not see the bias of keys: its gradient is rounding.
    keys = slice(32, 64)
    hide = lambda grads: eqx.tree_at(
        lambda g: g.blocks.layers.qkv.bias,
        grads,
        grads.blocks.layers.qkv.bias.at[:, keys].set(0.0),
    )
    relative = errors(hide(half), hide(full))
    assert max(relative.values()) < 0.02, relative


def test_the_linear_layers_of_a_gpt_are_cast() -> None:
    """Weights that add to or scale the residual stream are not."""
    model, batch = gpt_case()
    cast = gpt.model.cast(model, HALF)
    linear = lambda node: isinstance(node, Linear)
    nodes = jax.tree.leaves(cast, is_leaf=linear)
    for node in nodes:
        types = {leaf.dtype for leaf in jax.tree.leaves(node)}
        assert types == {HALF if linear(node) else jnp.dtype("float32")}
    assert sum(map(linear, nodes)) == 4
    assert cast.hidden(jnp.asarray(batch.inputs)).dtype == HALF


def test_the_latents_of_a_trm_are_cast() -> None:
    """They set the compute type; no weight is rounded."""
    cast = trm.model.cast(tiny.model(), HALF)
    latents = cast.recursion.init()
    assert {leaf.dtype for leaf in jax.tree.leaves(latents)} == {HALF}
    x = cast.embed(jnp.zeros(tiny.SEQ, jnp.int32), jnp.zeros(tiny.MODEL.puzzle_dim))
    assert x.dtype == HALF
    assert cast.embedding.weight.dtype == cast.head.weight.dtype == jnp.float32
