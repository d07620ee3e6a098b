"""EqR: its cycle, its noise and its fresh latents."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import TRMConfig
from tests import tiny
from tests.tiny import assert_close, assert_equal
from trm.act import halting_of
from trm.build import build_trm
from trm.evaluation import Answers, Effort, answer, work
from trm.loss import puzzle_loss
from trm.model import TRM
from trm.noise import Noise, fold, puzzle_keys
from trm.official.names import load_official
from trm.recursion import deep_recursion
from trm.scoring import residual
from trm.variants.eqr import SCALE, STEP, EqR

BARE = TRMConfig(
    variant="eqr",
    dim=16,
    heads=2,
    H_cycles=2,
    L_cycles=3,
    prefix=0,
    puzzle_dim=0,
)
KEYS = jax.random.split(jax.random.key(3), 4)
both = pytest.mark.parametrize(
    "mixer", [pytest.param("attention", marks=pytest.mark.slow), "mlp"]
)


def model(mixer: str = "mlp") -> TRM:
    small = replace(BARE, mixer=mixer, layers=1, L_cycles=2)  # pyright: ignore
    return tiny.model(small)


def start(built: TRM) -> tuple:
    """Latents and question of four puzzles."""
    y, z, x = jax.random.normal(jax.random.key(1), (3, 4, tiny.SEQ, 16))
    return (y, z), x


def test_without_noise_it_is_the_official_code() -> None:
    """locuslab/EqR at 4d45856 with `noise_scale` 0, float32, from given latents."""
    with np.load(Path(__file__).parents[1] / "golden" / "eqr.npz") as stored:
        golden = dict(stored)
    weights = {k[2:]: v for k, v in golden.items() if k.startswith("w/")}
    built = build_trm(BARE, vocab=7, seq=16, key=jax.random.key(0))
    built = load_official(weights, built, BARE)
    x = built.embed(jnp.asarray(golden["inputs"]), jnp.zeros((3, 0)))
    latents = jnp.asarray(golden["z_H"]), jnp.asarray(golden["z_L"])
    after = eqx.filter_jit(built.refine)(latents, x)
    assert_close(after, (golden["out_z_H"], golden["out_z_L"]), 1e-5)
    said = built.predict(after)
    assert_close(said.logits, golden["logits"], 1e-5)
    assert_close(said.q_halt, golden["q"], 1e-5)


def test_a_cycle_with_noise() -> None:
    recursion = model("attention").recursion
    assert isinstance(recursion, EqR)
    (y, z), x = start(model())
    noise = Noise(KEYS, (tiny.SEQ, 16), jnp.dtype("float32"), lambda a: a)
    towards = lambda a, b, number: (
        (1 - STEP) * a + STEP * recursion.network(a + b) + SCALE * noise(number)
    )
    for_z = y + x
    expected = z
    for number in range(2):
        expected = towards(expected, for_z, number)
    assert_close(
        eqx.filter_jit(recursion)((y, z), x, noise),
        (towards(y, expected, 2), expected),
        1e-4,
    )
    draws = np.stack([noise(0), noise(1), noise.fold(1)(0)])
    assert abs(draws.mean()) < 0.1
    assert abs(draws.std() - 1) < 0.1
    assert abs(np.corrcoef(draws.reshape(3, -1)) - np.eye(3)).max() < 0.15


@both
def test_the_noise_of_a_puzzle_is_its_own(mixer: str) -> None:
    """Whatever else is in the batch, and in the layout of either network."""
    built = model(mixer)
    refine = eqx.filter_jit(built.refine)
    latents, x = start(built)
    together = refine(latents, x, KEYS)
    order = np.array([2, 0, 3, 1])
    turned = jax.tree.map(lambda a: a[order], (latents, x, KEYS))
    assert_close(refine(*turned), jax.tree.map(lambda a: a[order], together), 1e-4)
    for other in (refine(latents, x), refine(latents, x, fold(KEYS, 1))):
        apart = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), other, together)
        assert min(map(float, jax.tree.leaves(apart))) > SCALE / 2


@pytest.mark.slow
def test_every_cycle_has_other_noise() -> None:
    """Else the two cycles that `H_cycles` makes would be one, twice."""
    built = model()
    (y, z), x = start(built)
    recursion = built.recursion
    assert isinstance(recursion, EqR)
    first_axis = lambda a: jnp.moveaxis(a, 1, 0)
    axes = lambda tree: jax.tree.map(first_axis, tree)
    noise = Noise(KEYS, (tiny.SEQ, 16), jnp.dtype("float32"), first_axis)
    cycle = eqx.filter_jit(recursion)
    after = eqx.filter_jit(deep_recursion)(recursion, axes((y, z)), axes(x), 2, noise)
    first = cycle(axes((y, z)), axes(x), noise.fold(0))
    assert_close(after, cycle(first, axes(x), noise.fold(1)), 1e-4)


def test_fresh_latents_are_random_at_every_position() -> None:
    built = model()
    latents, _ = start(built)
    fresh = jnp.array([True, False, True, False])
    drawn = built.start(latents, fresh, KEYS)
    old = lambda tree: jax.tree.map(lambda a: a[~fresh], tree)
    assert_equal(old(drawn), old(latents))
    y, z = (np.asarray(a[fresh]) for a in drawn)
    rows = np.concatenate([y.reshape(-1, 16), z.reshape(-1, 16)])
    assert len(np.unique(rows, axis=0)) == 4 * tiny.SEQ
    assert abs(rows.mean()) < 0.1
    assert abs(rows.std() - 1) < 0.1
    assert np.abs(rows).max() < 2 / 0.8796  # cut at two sigma, then widened


def test_other_variants_take_no_keys() -> None:
    built = tiny.model()
    latents = jax.random.normal(jax.random.key(1), (2, 4, 4 + tiny.SEQ, 16))
    latents, x = (latents[0], latents[1]), latents[0] + 1
    refine = eqx.filter_jit(built.refine)
    assert_equal(refine(latents, x, KEYS), refine(latents, x))
    assert_equal(built.start(latents, jnp.ones(4, bool), KEYS), latents)


def test_an_evaluation_depends_on_the_puzzles_alone() -> None:
    built = model()
    puzzles = jax.tree.map(jnp.asarray, tiny.puzzles(0, 4))
    assert len(np.unique(jax.random.key_data(puzzle_keys(puzzles.inputs)), axis=0)) == 4

    @jax.jit
    def answer(puzzles) -> jax.Array:
        effort, halting = Effort(steps=3), halting_of(tiny.ACT)
        rows = jnp.zeros((4, 0))
        options = {"effort": effort, "halting": halting, "rows": 4}
        done, _ = work(built, rows, puzzles, jnp.arange(4), **options)
        return done.prediction.logits

    order = np.array([2, 0, 3, 1])
    turned = jax.tree.map(lambda a: a[order], puzzles)
    assert_close(answer(turned), answer(puzzles)[order], 1e-4)


def test_a_training_step_draws_from_its_keys() -> None:
    built, objective = model(), tiny.objective()
    puzzles = jax.tree.map(jnp.asarray, tiny.puzzles(0, 4))
    carry = objective.refill(built, objective.init_carry(built, 4), puzzles)
    rows = jnp.zeros((4, 0))
    step = jax.jit(lambda keys: objective.loss(built, rows, carry, keys)[1][1].latents)
    first, again, other = step(KEYS), step(KEYS), step(fold(KEYS, 1))
    assert_equal(first, again)
    assert all(
        float(jnp.abs(a - b).max()) > 0.1 for a, b in zip(first, other, strict=True)
    )


@pytest.mark.slow
def test_restarts_are_rollouts_without_noise_on_the_scratchpad() -> None:
    """Each from latents and noise of its own, which its number alone decides."""
    built = model()
    act = replace(tiny.ACT, max_steps=4)
    puzzles = jax.tree.map(jnp.asarray, tiny.puzzles(0, 4))

    @partial(jax.jit, static_argnums=(0, 1))
    def answers(effort: Effort, rows: int) -> Answers:
        numbers, table_rows = jnp.arange(4), jnp.zeros((4, 0))
        return answer(
            built,
            table_rows,
            puzzles,
            numbers,
            effort=effort,
            halting=halting_of(act),
            puzzle_loss=partial(puzzle_loss, config=act),
            rows=rows,
        )

    effort = Effort(steps=4, rollouts=3, early=True)
    found = answers(effort, 12)
    q = np.asarray(found.q_halt[:, 0]).reshape(4, 3)
    assert (np.abs(np.diff(q, axis=1)) > 1e-3).all()
    refilled = answers(replace(effort, refill=True), 5)
    np.testing.assert_array_equal(refilled.tokens, found.tokens)
    np.testing.assert_array_equal(refilled.steps, found.steps)
    assert_close(refilled.moved, found.moved, 1e-4)
    moved = residual(np.asarray(found.moved), np.asarray(found.steps))
    assert (moved > 0).all()
