"""Winner takes all: the chain with the lowest loss learns, and shares its answer."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ACTConfig, TrainTRM, UserError
from tests import tiny
from tests.tiny import assert_close, assert_equal
from trm.act import init_carry, refill
from trm.loss import puzzle_loss
from trm.objective import supervision_loss
from trm.winner import start_chains

ACT = ACTConfig(max_steps=3, exploration=0.0, halt="never", chains=3)
KEYS = jax.random.split(jax.random.key(3), 2)
ROWS = jnp.ones((2, 16))
MODEL = tiny.model(
    replace(tiny.MODEL, mixer="mlp", positions="none", inner_multiple=8, H_cycles=1)
)


@jax.jit
def step(carry, model=MODEL):
    """The loss, its gradient, and the next carry."""
    chains = 3 if carry.latents[0].ndim == 4 else 1
    config = replace(ACT, chains=chains)
    loss = lambda m: supervision_loss(m, ROWS, carry, KEYS, config=config)
    (value, (_, after, _)), grads = jax.value_and_grad(loss, has_aux=True)(model)
    return value, grads, after


def test_the_best_chain_learns_and_shares_its_answer() -> None:
    puzzles = jax.tree.map(jnp.asarray, tiny.puzzles(0, 2))
    carry = refill(MODEL, init_carry(MODEL, 2, tiny.SEQ, chains=3), puzzles)
    carry = step(carry)[2]
    y, z = carry.latents
    assert_equal(y, jnp.broadcast_to(y[:, :1], y.shape))
    assert all(
        float(jnp.abs(z[:, i] - z[:, j]).max()) > 0.1 for i, j in ((0, 1), (1, 2))
    )

    total, grads, after = step(carry)
    x = MODEL.embed(puzzles.inputs, ROWS)
    one = lambda said, labels: puzzle_loss(said, labels, None, ACT)[1]["lm_loss"]
    lone = [MODEL.refine((y[:, k], z[:, k]), x) for k in range(3)]
    losses = [jax.vmap(one)(MODEL.predict(each), puzzles.labels) for each in lone]
    best = np.argmin(losses, axis=0)
    pick = lambda leaf: leaf[jnp.arange(2), best]
    plain = eqx.tree_at(lambda c: c.latents, carry, (pick(y), pick(z)))
    plain_total, plain_grads, plain_after = step(plain)
    assert_close((total, grads), (plain_total, plain_grads))
    for k, (_, own) in enumerate(lone):
        assert_close(after.latents[0][:, k], plain_after.latents[0])
        assert_close(after.latents[1][:, k], own)


def test_fresh_chains_start_apart_and_the_first_as_in_evaluation() -> None:
    """Rows under way keep their scratchpads, and draws depend on a row's key alone."""
    zeros = jnp.zeros((2, 3, 4, 16))
    fresh = jnp.array([True, False])
    started = start_chains((zeros, zeros), (False, True), fresh, KEYS)
    assert_equal(started[0], zeros)
    assert not started[1][:, 0].any()
    assert not started[1][1].any()
    assert float(started[1][0, 1:].std()) == pytest.approx(1.0, abs=0.2)
    alone = start_chains((zeros[:1],) * 2, (False, True), fresh[:1], KEYS[:1])
    assert_equal(alone[1], started[1][:1])


def test_chains_need_a_scratchpad() -> None:
    single = replace(TrainTRM().model, variant="single_z")
    with pytest.raises(UserError, match="variant=single_z"):
        TrainTRM(model=single, act=ACTConfig(chains=4))
