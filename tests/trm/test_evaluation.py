"""The engine of every evaluation, against the loop of `trm.act` for one batch."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import MeshConfig
from data.puzzles.dataset import IGNORE, Puzzle
from tests import tiny
from tests.tiny import assert_close
from train.mesh import everywhere, global_batch, make_mesh
from train.queues import make_queue_step
from train.table import make_table
from trm.act import init_carry, refill, solve
from trm.evaluation import Answers, Effort, answer, noise_keys
from trm.model import cast
from trm.objective import evaluate
from trm.rollouts import CHOICES, add_noise, scratchpads, select
from trm.scoring import add, held, residual, settle

ACT = replace(tiny.ACT, max_steps=4)
QUEUE = 8
TABLE = jax.random.normal(jax.random.key(1), (tiny.PUZZLES, tiny.MODEL.puzzle_dim))
FIXED = Effort(steps=4)
HALT = replace(FIXED, early=True)
REFILL = replace(HALT, refill=True)


def queue(first: int = 0, size: int = QUEUE) -> tuple[Puzzle, jax.Array]:
    """Some of the puzzles of a dataset, with their numbers."""
    drawn = jax.tree.map(lambda a: a[first : first + size], tiny.puzzles(2, 16))
    return jax.tree.map(jnp.asarray, drawn), jnp.arange(first, first + size)


@cache
def program(effort: Effort, rows: int) -> Callable[..., Answers]:
    made = partial(answer, effort=effort, act=ACT, rows=rows)
    model = tiny.model()
    return jax.jit(
        lambda puzzles, numbers: made(model, TABLE[puzzles.puzzle_id], puzzles, numbers)
    )


def answers(
    effort: Effort, rows: int = 4, puzzles: tuple[Puzzle, jax.Array] | None = None
) -> Answers:
    return program(effort, rows)(*(puzzles or queue()))


def assert_same(ours: Answers, theirs: Answers) -> None:
    """All but the sweeps: the same answers after as many steps.

    On another mesh products have other shapes, and round otherwise.
    """
    for name in ("tokens", "steps", "wanted"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    np.testing.assert_array_equal(ours.by_step.exact, theirs.by_step.exact)
    assert_close(ours.by_step.q_halt, theirs.by_step.q_halt, 1e-4)
    assert_close(ours.by_step.moved, theirs.by_step.moved, 1e-4)


@pytest.mark.parametrize(
    "effort", [REFILL, pytest.param(FIXED, marks=pytest.mark.slow)]
)
def test_answers_are_those_of_a_batch(effort: Effort) -> None:
    """Which `tests/trm/test_act.py` holds against the loop written out."""
    model, (puzzles, _) = tiny.model(), queue()
    carry = refill(model, init_carry(model, QUEUE, tiny.SEQ), puzzles)
    rows = TABLE[puzzles.puzzle_id]
    run = jax.jit(lambda c: solve(model, rows, c, ACT, early=effort.early))
    solved, said = run(carry)
    ours = answers(effort)
    np.testing.assert_array_equal(ours.tokens, said.logits.argmax(-1))
    np.testing.assert_array_equal(ours.steps, solved.steps)
    last = held(jax.device_get(ours.by_step), np.asarray(ours.steps))
    assert_close(last.q_halt[:, -1], said.q_halt)
    assert (len(set(ours.steps.tolist())) > 1) == effort.early


def test_refill_answers_as_halt_in_fewer_sweeps() -> None:
    halt, refilled = answers(HALT), answers(REFILL)
    assert_same(refilled, halt)
    assert 0 < int(refilled.sweeps[0]) < int(halt.sweeps[0]) <= 2 * 4


def test_rows_wait_for_all_others_unless_they_refill() -> None:
    """As many sweeps as the slowest of each batch takes, or a row at a time."""
    steps = np.asarray(answers(HALT).steps).reshape(2, 4)
    assert int(answers(HALT).sweeps[0]) == steps.max(1).sum()
    busy = np.zeros(4, int)
    for number in steps.ravel():
        busy[busy.argmin()] += number
    assert int(answers(REFILL).sweeps[0]) == busy.max()


def test_padding_gets_no_answer() -> None:
    puzzles, numbers = queue()
    padded = puzzles, jnp.where(numbers < 5, numbers, -1)
    ours, whole = answers(REFILL, puzzles=padded), answers(REFILL)
    np.testing.assert_array_equal(ours.steps[5:], 0)
    np.testing.assert_array_equal(ours.tokens[:5], whole.tokens[:5])
    nothing = answers(REFILL, puzzles=(puzzles, jnp.full_like(numbers, -1)))
    assert int(nothing.sweeps[0]) == 0


@pytest.mark.slow
def test_more_steps_begin_with_the_same_steps() -> None:
    deep = answers(replace(FIXED, steps=9))
    assert int(answers(FIXED).sweeps[0]) == 2 * 4
    pair = (jax.tree.leaves(found.by_step) for found in (deep, answers(FIXED)))
    for a, b in zip(*pair, strict=True):
        np.testing.assert_allclose(a[:, :4], b, atol=1e-5)


# -- rollouts --------------------------------------------------------------------------

NOISY = replace(REFILL, rollouts=3, sigma=0.3)


@pytest.mark.slow
def test_rollouts_without_noise_are_copies() -> None:
    copies = answers(replace(REFILL, rollouts=3))
    assert_same(copies, jax.tree.map(lambda a: np.repeat(a, 3, 0), answers(REFILL)))


def test_rollouts_differ() -> None:
    tokens = np.asarray(answers(NOISY).tokens).reshape(QUEUE, 3, -1)
    assert (tokens[:, 0] != tokens[:, 1]).any()
    keys = [noise_keys(seed, *jnp.ones((3, 1), jnp.int32))[0] for seed in (0, 1)]
    assert (jax.random.key_data(keys[0]) != jax.random.key_data(keys[1])).any()


def test_a_rollout_is_algorithm_1_written_out() -> None:
    """z gets noise before each step and y none: here z is the second latent of two."""
    model, (puzzles, _) = tiny.model(), queue()
    ours, number, rollout = answers(NOISY), 5, 2
    item = number * NOISY.rollouts + rollout
    x = model.embed(puzzles.inputs[number], TABLE[puzzles.puzzle_id[number]])
    y, z = (jnp.broadcast_to(a, x.shape) for a in model.recursion.init())
    logits = jnp.zeros(())
    for step in range(int(ours.steps[item])):
        key = jax.random.key(NOISY.seed)
        for value in (number, rollout, step, 1):
            key = jax.random.fold_in(key, value)
        z = z + NOISY.sigma * jax.random.normal(key, z.shape)
        y, z = model.refine((y, z), x)
        said = model.predict((y, z))
        assert said.q_halt == pytest.approx(
            float(ours.by_step.q_halt[item, step]), 1e-4
        )
        if step > 0:
            norms = jnp.sqrt(((said.logits - logits) ** 2).sum(-1))
            moved = float(ours.by_step.moved[item, step])
            assert moved == pytest.approx(float(norms.mean()), 1e-4)
        logits = said.logits
    np.testing.assert_array_equal(logits.argmax(-1), ours.tokens[item])


def test_a_rollout_does_not_depend_on_the_others() -> None:
    """Nor on the rows, on the queue, on more rollouts."""
    whole = answers(NOISY)
    more = answers(replace(NOISY, rollouts=5), rows=7, puzzles=queue(3, 4))
    pick = np.arange(4 * 5).reshape(4, 5)[:, :3].ravel()
    ours = jax.tree.map(lambda a: a[pick] if len(a) > 1 else a, more)
    assert_same(ours, jax.tree.map(lambda a: a[9:21] if len(a) > 1 else a, whole))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 4), (8, 1)])
def test_meshes_answer_the_same(sizes: tuple[int, int]) -> None:
    def on(mesh) -> Answers:
        step = make_queue_step(
            partial(answer, effort=NOISY, act=ACT, rows=2),
            cast,
            mesh,
            replace(tiny.PLAN, batch_size=QUEUE),
            tiny.model(),
        )
        puzzles = global_batch(mesh, QUEUE, 0)(jax.device_get(queue()))
        return everywhere(step(tiny.model(), make_table(TABLE, mesh.size), *puzzles))

    ours = on(make_mesh(MeshConfig(data=sizes[0], model=sizes[1])))
    assert_same(ours, answers(NOISY))
    assert ours.sweeps.shape == (8,)


@pytest.mark.slow
def test_a_variant_with_noise_of_its_own_has_rollouts_without_sigma() -> None:
    """The first is the answer of training; the others start elsewhere."""
    model = tiny.model(replace(tiny.MODEL, variant="eqr"))
    puzzles, numbers = queue()
    effort = replace(REFILL, rollouts=3)
    rows = TABLE[puzzles.puzzle_id]
    ours = jax.jit(partial(answer, effort=effort, act=ACT, rows=4))(
        model, rows, puzzles, numbers
    )
    carry = refill(model, init_carry(model, QUEUE, tiny.SEQ), puzzles)
    solved, said = jax.jit(lambda c: solve(model, rows, c, ACT, early=True))(carry)
    tokens = np.asarray(ours.tokens).reshape(QUEUE, 3, -1)
    np.testing.assert_array_equal(tokens[:, 0], said.logits.argmax(-1))
    np.testing.assert_array_equal(ours.steps[::3], solved.steps)
    assert (tokens[:, 0] != tokens[:, 1]).any()
    assert (tokens[:, 1] != tokens[:, 2]).any()


NOISED = {
    "eqr": [False, True],
    "trm": [False, True],
    "hrm": [False, True],
    "hier6": [False] + [True] * 6,
    "single_z": [True],
    "transformer": [True],
}


@pytest.mark.parametrize("variant", NOISED)
def test_every_variant_knows_its_scratchpads(variant: str) -> None:
    cycles = 1 if variant == "transformer" else tiny.MODEL.H_cycles
    config = replace(tiny.MODEL, variant=variant, H_cycles=cycles)  # pyright: ignore
    recursion = tiny.model(config).recursion
    latents = jax.tree.map(lambda a: jnp.ones((40, 9, a.size)), recursion.init())
    assert jax.tree.leaves(scratchpads(recursion, latents)) == NOISED[variant]
    keys = jax.random.split(jax.random.key(0), 40)
    after = add_noise(recursion, latents, keys, 0.5)
    drawn = [np.asarray(leaf) - 1.0 for leaf in jax.tree.leaves(after)]
    for noise, flag in zip(drawn, NOISED[variant], strict=True):
        assert abs(noise.std() - (0.5 if flag else 0.0)) < 0.03
        assert abs(noise.mean()) < 0.03
    own = [noise for noise, flag in zip(drawn, NOISED[variant], strict=True) if flag]
    assert all((a != own[0]).any() for a in own[1:]), "each its own noise"


# -- choosing --------------------------------------------------------------------------


def test_choosing() -> None:
    tokens = np.array([[[1, 1], [2, 2], [1, 1], [3, 3]]])
    q_halt = np.array([[0.1, 0.5, 0.3, 0.9]])
    residual = np.array([[0.3, 0.2, 0.1, 0.4]])
    steps = np.array([[3, 2, 4, 2]])
    wanted = np.array([[True, True, True, False]])
    chosen = {
        rule: int(select(rule, tokens, q_halt, residual, steps, wanted)[0])
        for rule in CHOICES
    }
    assert chosen == {"best_q": 3, "mode": 2, "residual": 2, "first": 1}
    nobody = select("first", tokens, q_halt, residual, steps, np.zeros((1, 4), bool))
    assert nobody[0] == 3, "of the highest q"


def test_the_residual_is_of_the_last_three_steps() -> None:
    moved = np.array([[9.0, 1, 2, 3, 6, 0], [9, 4, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0]])
    steps = np.array([5, 2, 1])
    np.testing.assert_allclose(residual(moved, steps), [11 / 3, 4.0, np.inf])


def test_sums_are_those_of_the_training_loop() -> None:
    """And of two queues as of one."""
    model, (puzzles, _) = tiny.model(), queue()
    labels = np.array(puzzles.labels)
    labels[2] = IGNORE
    puzzles = puzzles._replace(labels=jnp.asarray(labels))
    carry = refill(model, init_carry(model, QUEUE, tiny.SEQ), puzzles)
    rows = TABLE[puzzles.puzzle_id]
    run = jax.jit(lambda c: evaluate(model, rows, c, config=ACT, early=True)[0])
    theirs = run(carry)
    ours = jax.device_get(answers(REFILL, puzzles=(puzzles, queue()[1])))
    parts = [
        settle(ours, np.array(real), labels[real], REFILL, "best_q")[1]
        for real in ([0, 1, 2], [3, 4, 5, 6, 7])
    ]
    sums = add(add({}, parts[0]), parts[1])
    for name in theirs.keys() - {"lm_loss", "q_halt_loss"}:
        assert sums[name][1] == theirs[name][1] == 7
        assert sums[name][0] == pytest.approx(float(theirs[name][0]), rel=1e-6)
    curve = sums["curve/exact_accuracy"][0]
    assert curve.shape == (4,)
    assert curve[-1] == sums["exact_accuracy"][0]
    assert isinstance(int(curve[-1]), int)
    assert curve.dtype == np.int64


def test_rollout_shares_are_the_plain_counts() -> None:
    puzzles, _ = queue()
    labels = np.array(puzzles.labels)
    ours = jax.device_get(answers(NOISY))
    _, sums = settle(ours, np.arange(QUEUE), labels, NOISY, "mode")
    right = (
        (ours.tokens == labels.repeat(3, 0)) | (labels.repeat(3, 0) == IGNORE)
    ).all(1)
    right = right.reshape(QUEUE, 3)
    assert sums["rollouts/3/any"][0] == right.any(1).sum()
    assert sums["rollouts/1/best_q"][0] == right[:, 0].sum()
    assert sums["rollouts/one"][0] == pytest.approx(right.mean(1).sum())
