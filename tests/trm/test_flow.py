"""Looped flows: what the model sees in training, and the sampler of evaluations."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ACTConfig, TrainTRM, TRMConfig, UserError
from data.puzzles.dataset import Puzzle
from tests.tiny import assert_close, assert_equal
from trm.act import halting_of, init_carry, refill
from trm.build import build_trm
from trm.evaluation import Effort, work
from trm.flow import Flow, Path
from trm.loss import log_softmax
from trm.objective import supervision_loss

ROWS, SEQ, VOCAB, DIM = 3, 16, 6, 8
ACT = ACTConfig(max_steps=4, exploration=0.0, halt="never", loss="softmax")
CONFIG = TRMConfig(
    flow="softmax",
    dim=DIM,
    prefix=1,
    puzzle_dim=DIM,
    layers=1,
    H_cycles=1,
    L_cycles=1,
    inner_multiple=8,
)
KEYS = jax.random.split(jax.random.key(2), ROWS)
LABELS = jax.random.randint(jax.random.key(0), (ROWS, SEQ), 2, VOCAB)
INPUTS = jnp.where(jnp.arange(SEQ) % 3 == 0, LABELS, 1)
PUZZLE = Puzzle(INPUTS, LABELS, jnp.zeros(ROWS, jnp.int32))
OPEN = np.asarray(INPUTS == 1)


class Shown(Flow):
    """A flow whose question is the noised answer itself, and the time."""

    def __call__(self, x, state, t):
        return jnp.concatenate((state, t[:, None, None] + x[..., :1]), -1)


def flow(gamma: float = 0.0) -> Flow:
    return Shown(
        VOCAB, DIM, unknown=1, gamma=gamma, log_p=log_softmax, key=jax.random.key(1)
    )


def shown(path: Path, step: int, config: ACTConfig = ACT, rows: int = ROWS) -> tuple:
    """Noised answer, times and next path; the prediction is the token 2, for sure."""
    part = jax.tree.map(lambda a: a[:rows], (path, PUZZLE, KEYS))
    steps = jnp.full(rows, step)
    x, follow = flow().learn(
        jnp.zeros((rows, SEQ, VOCAB + 1)), part[0], part[1], steps, part[2], config
    )
    sure = jnp.where(jnp.arange(VOCAB) == 2, 99.0, jnp.zeros((rows, SEQ, 1)))
    return x[..., :-1], x[:, 0, -1], follow(sure)["path"]


def test_in_training_noise_is_shared_and_falls() -> None:
    truth, path, before = (
        jax.nn.one_hot(LABELS, VOCAB),
        flow().init_path(ROWS, SEQ),
        0.0,
    )
    noises = []
    for step in range(4):
        state, t, path = shown(path, step)
        assert (t > before).all()
        assert (t < 1).all()
        before, cell = t, t[:, None, None]
        noises.append(((state - cell * truth) / (1 - cell))[OPEN])
        assert_equal(state[~OPEN], truth[~OPEN])  # given: without noise
    for noise in noises[1:]:
        np.testing.assert_allclose(noise, noises[0], atol=1e-4)
    assert float(noises[0].std()) == pytest.approx(VOCAB**-0.5, rel=0.15)
    assert_equal(path.updates, jnp.full(ROWS, 4))


def test_a_row_depends_on_its_own_key_alone() -> None:
    path = flow().init_path(ROWS, SEQ)
    whole, alone = shown(path, 0), shown(path, 0, rows=1)
    assert_equal(alone[:2], jax.tree.map(lambda a: a[:1], whole[:2]))


def test_pseudotargets_replace_the_solution_after_the_first_step() -> None:
    config = replace(ACT, pseudotargets=2)
    path = flow().init_path(ROWS, SEQ)
    _, _, path = shown(path, 0, config)
    late = replace(path, updates=jnp.full(ROWS, 2))
    truth, guess = jax.nn.one_hot(LABELS, VOCAB), jax.nn.one_hot(2, VOCAB)
    plain, t, _ = shown(path, 1)
    for kept, target in (
        (late, guess),
        (replace(path, updates=path.updates * 0), truth),
    ):
        state, _, _ = shown(kept, 1, config)
        expected = plain + t[:, None, None] * (target - truth)
        np.testing.assert_allclose(state[OPEN], expected[OPEN], atol=1e-5)
    first, _, _ = shown(late, 0, config)
    assert_equal(first, shown(late, 0)[0])


def trajectory(gamma: float, logits: jax.Array, total: int, inputs: jax.Array) -> list:
    """All states that are shown, with their times, and the last state."""
    made, seen = flow(gamma), []
    keys = jax.random.split(jax.random.key(5), len(inputs))
    now = made.begin(inputs, keys)
    for step in range(total):
        steps = jnp.full(len(inputs), step, jnp.int32)
        fold = jax.vmap(jax.random.fold_in, (0, None))
        x, follow = made.sample(
            jnp.zeros((*inputs.shape, VOCAB + 1)), now, steps, total, fold(keys, step)
        )
        seen.append((x[..., :-1], float(x[0, 0, -1])))
        now = follow(logits)
    return [*seen, (now.state, 1.0)]


def test_without_stochasticity_it_is_a_straight_line_to_the_prediction() -> None:
    logits = jax.random.normal(jax.random.key(1), (ROWS, SEQ, VOCAB))
    goal = jax.nn.softmax(logits)
    states = trajectory(0.0, logits, 4, INPUTS)
    start = states[0][0]
    for state, t in states[:-1]:
        expected = (1 - t) * start + t * goal
        np.testing.assert_allclose(state[OPEN], expected[OPEN], atol=1e-5)
    assert [t for _, t in states] == [0.0, 0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(states[-1][0], goal, atol=1e-5)


def test_stochastic_states_have_the_law_of_training() -> None:
    """Appendix C: of mean `s x1` and deviation `(1 - s) sigma`, if x1 is predicted."""
    unknown = jnp.ones((200, SEQ), jnp.int32)
    logits = jnp.where(jnp.arange(VOCAB) == 2, 99.0, jnp.zeros((200, SEQ, 1)))
    goal = jax.nn.one_hot(2, VOCAB)
    for state, s in trajectory(5.0, logits, 8, unknown)[:-1]:
        assert 0 <= s < 0.4
        np.testing.assert_allclose(state.mean((0, 1)), s * goal, atol=0.03)
        deviation = float((state - s * goal).std())
        assert deviation == pytest.approx((1 - s) * VOCAB**-0.5, rel=0.03)


def test_its_size_is_the_papers() -> None:
    config = TRMConfig(flow="stablemax")
    model = jax.eval_shape(
        lambda: build_trm(config, vocab=11, seq=81, key=jax.random.key(0))
    )
    sizes = (leaf.size for leaf in jax.tree.leaves(model.flow))
    assert sum(sizes) == 512 * 11 + 263_680


def test_without_its_weights_it_is_the_plain_model() -> None:
    """In training and in an evaluation; with them, all get gradient."""
    build = lambda config: build_trm(
        config, vocab=VOCAB, seq=SEQ, key=jax.random.key(0)
    )
    model, plain = build(CONFIG), build(replace(CONFIG, flow="none"))
    zero = eqx.tree_at(
        lambda m: m.flow,
        model,
        replace_fn=lambda flow: jax.tree.map(jnp.zeros_like, flow),
    )
    rows = jnp.zeros((ROWS, DIM))

    def loss(model):
        carry = refill(model, init_carry(model, ROWS, SEQ), PUZZLE)
        return supervision_loss(model, rows, carry, KEYS, config=ACT)[0]

    @jax.jit
    def both(model):
        numbers = jnp.arange(ROWS, dtype=jnp.int32)
        effort, halting = Effort(steps=2), halting_of(ACT)
        done, _ = work(
            model, rows, PUZZLE, numbers, effort=effort, halting=halting, rows=ROWS
        )
        return jax.value_and_grad(loss)(model), done.prediction.logits

    (without, _), answer = both(zero)
    (expected, _), expected_answer = both(plain)
    assert_close((without, answer), (expected, expected_answer))
    (_, grads), other = both(model)
    assert float(jnp.abs(other - answer).max()) > 1e-3
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    assert all(bool(g.any()) for g in jax.tree.leaves(grads.flow))


def test_the_flow_must_fit_the_loss() -> None:
    with pytest.raises(UserError, match=r"stablemax and softmax"):
        TrainTRM(model=replace(CONFIG, flow="stablemax"), act=ACT)
    with pytest.raises(UserError, match="pseudotargets"):
        TrainTRM(act=ACTConfig(pseudotargets=5))
