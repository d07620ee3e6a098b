import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ACTConfig
from data.puzzles.dataset import Puzzle
from tests import tiny
from tests.tiny import assert_close, assert_equal
from trm.act import Carry, halts, init_carry, least_steps, refill, wants_to_halt
from trm.model import Prediction


def drawn(seed: int, batch: int = 4) -> Puzzle:
    return jax.tree.map(jnp.asarray, tiny.puzzles(seed, batch))


def under_way(model, batch: int = 4) -> Carry:
    """A carry in the middle of things: rows 0 and 2 have halted."""
    carry = refill(model, init_carry(model, batch, tiny.SEQ), drawn(0, batch))
    latents = jax.tree.map(
        lambda a: a + jax.random.normal(jax.random.key(3), a.shape), carry.latents
    )
    return Carry(
        latents=latents,
        steps=jnp.array([3, 1, 2, 2], jnp.int32),
        halted=jnp.array([True, False, True, False]),
        puzzle=carry.puzzle,
    )


def pick(tree, rows: list[int]):
    return jax.tree.map(lambda a: a[np.array(rows)], tree)


def test_a_refilled_row_forgets_its_puzzle() -> None:
    model = tiny.model()
    carry, offered = under_way(model), drawn(1)
    after = refill(model, carry, offered)
    fresh = refill(model, init_carry(model, 4, tiny.SEQ), offered)
    assert_equal(pick(after, [0, 2]), pick(fresh, [0, 2]))
    assert_equal(pick(after.puzzle, [0, 2]), pick(offered, [0, 2]))
    np.testing.assert_array_equal(after.steps, [0, 1, 0, 2])
    assert not after.halted.any()


def test_a_row_under_way_does_not_see_the_new_batch() -> None:
    model = tiny.model()
    carry = under_way(model)
    after = refill(model, carry, drawn(1))
    for part in ("latents", "puzzle"):
        assert_equal(
            pick(getattr(after, part), [1, 3]), pick(getattr(carry, part), [1, 3])
        )


def prediction(q_halt: list[float], q_continue: list[float]) -> Prediction:
    return Prediction(
        jnp.zeros((len(q_halt), 2, 3)), jnp.array(q_halt), jnp.array(q_continue)
    )


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("positive", [True, False, False]),
        ("compare", [True, True, False]),
        ("never", [False, False, False]),
    ],
)
def test_halting_rules(rule: str, expected: list[bool]) -> None:
    config = ACTConfig(max_steps=4, exploration=0.0, halt=rule)  # pyright: ignore
    said = prediction([0.1, -0.1, 0.0], [0.0, -0.2, 0.5])
    np.testing.assert_array_equal(wants_to_halt(said, config), expected)
    keys = jax.random.split(jax.random.key(0), 3)
    steps = jnp.array([1, 1, 4], jnp.int32)
    np.testing.assert_array_equal(
        halts(wants_to_halt(said, config), steps, keys, config), [*expected[:2], True]
    )


def test_one_step_is_the_last_step() -> None:
    config = ACTConfig(max_steps=1)
    keys = jax.random.split(jax.random.key(0), 2)
    said = prediction([-9.0, -9.0], [0.0, 0.0])
    assert halts(
        wants_to_halt(said, config), jnp.ones(2, jnp.int32), keys, config
    ).all()


def test_exploration_draws_each_least_number_alike() -> None:
    config = ACTConfig(max_steps=5, exploration=0.4)
    keys = jax.random.split(jax.random.key(0), 20_000)
    least = jax.vmap(least_steps, in_axes=(0, None))(keys, config)
    share = np.bincount(least, minlength=6) / 20_000
    np.testing.assert_allclose(share, [0.6, 0, 0.1, 0.1, 0.1, 0.1], atol=0.01)


def test_exploration_holds_rows_back_but_not_past_the_end() -> None:
    config = ACTConfig(max_steps=3, exploration=1.0)
    keys = jax.random.split(jax.random.key(0), 50)
    said = prediction([9.0] * 50, [0.0] * 50)
    stopped = [
        halts(wants_to_halt(said, config), jnp.full(50, step, jnp.int32), keys, config)
        for step in (1, 2, 3)
    ]
    assert not stopped[0].any()
    assert 0 < stopped[1].sum() < 50
    assert stopped[2].all()


def test_steps_and_halting_of_a_row_are_monotone() -> None:
    """A row's steps grow by one until it halts, then start again at one."""
    model, objective, carry = tiny.model(), tiny.objective(), None
    carry = objective.init_carry(model, 8)
    rows = jnp.zeros((8, tiny.MODEL.puzzle_dim))
    step = jax.jit(
        lambda c, b, k: objective.loss(model, rows, objective.refill(model, c, b), k)
    )
    for t in range(6):
        keys = jax.random.split(jax.random.key(t), 8)
        _, (_, after, _) = step(carry, drawn(t, 8), keys)
        expected = np.where(carry.halted, 1, carry.steps + 1)
        np.testing.assert_array_equal(after.steps, expected)
        assert (np.asarray(after.steps) <= tiny.ACT.max_steps).all()
        assert after.halted[np.asarray(after.steps) == tiny.ACT.max_steps].all()
        carry = after


@pytest.mark.slow
def test_the_loss_has_no_gradient_through_the_carry() -> None:
    """What a step hands on is cut off from the weights that made it."""
    model, objective = tiny.model(), tiny.objective()
    carry = objective.refill(model, objective.init_carry(model, 4), drawn(0))
    rows = jnp.zeros((4, tiny.MODEL.puzzle_dim))
    keys = jax.random.split(jax.random.key(0), 4)

    def handed_on(model) -> jax.Array:
        _, (_, after, _) = objective.loss(model, rows, carry, keys)
        return sum(jnp.sum(a) for a in jax.tree.leaves(after.latents))

    grads = jax.tree.leaves(eqx.filter_grad(handed_on)(model))
    assert all(not g.any() for g in grads)
    assert_close(carry, carry)
