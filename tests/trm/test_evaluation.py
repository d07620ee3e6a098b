"""The engine of every evaluation, against its loop written out."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import count

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import MeshConfig
from data.puzzles.dataset import IGNORE, Puzzle
from data.puzzles.symmetry import Symmetry, views
from tests import tiny
from tests.tiny import assert_close
from train.mesh import everywhere, global_batch, make_mesh
from train.queues import make_queue_step
from train.table import make_table
from trm.act import (
    Halting,
    halting_of,
    init_carry,
    refill,
    wants_to_halt,
)
from trm.evaluation import Answers, Effort, Rows, answer, noise_keys, work
from trm.loss import puzzle_loss
from trm.model import TRM, cast
from trm.objective import evaluate, supervision_loss
from trm.rollouts import CHOICES, add_noise, parents, scratchpads, select
from trm.scoring import add, hold, residual, settle

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


RNG = np.random.default_rng(0)
DRAWN = (
    Symmetry(RNG.permutation(tiny.SEQ), RNG.permutation(tiny.VOCAB)) for _ in count()
)
VIEWS = views(DRAWN, 3)
OPTIONS = {
    "halting": halting_of(ACT),
    "puzzle_loss": partial(puzzle_loss, config=ACT),
}


@cache
def program(
    effort: Effort, rows: int, boards: bool, turned: bool
) -> Callable[..., Answers]:
    options = {**OPTIONS, "effort": effort, "rows": rows, "boards": boards}
    options["views"] = VIEWS if turned else None
    model = tiny.model()
    return jax.jit(
        lambda puzzles, numbers: answer(
            model, TABLE[puzzles.puzzle_id], puzzles, numbers, **options
        )
    )


def in_one_batch(
    model: TRM, effort: Effort, halting: Halting = OPTIONS["halting"]
) -> Rows:
    """The rows after their last steps, with a row for each puzzle."""
    puzzles, numbers = queue()
    run = partial(work, effort=effort, halting=halting, rows=QUEUE)
    return jax.jit(run)(model, TABLE[puzzles.puzzle_id], puzzles, numbers)[0]


def answers(
    effort: Effort,
    rows: int = 4,
    puzzles: tuple[Puzzle, jax.Array] | None = None,
    boards: bool = False,
    turned: bool = False,
) -> Answers:
    return program(effort, rows, boards, turned)(*(puzzles or queue()))


def assert_same(ours: Answers, theirs: Answers) -> None:
    """All but the sweeps: the same answers after as many steps.

    On another mesh products have other shapes, and round otherwise.
    """
    for name in ("tokens", "steps", "wanted"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    exact = [found.values["exact_accuracy"] for found in (ours, theirs)]
    np.testing.assert_array_equal(*exact)
    assert_close(ours.q_halt, theirs.q_halt, 1e-4)
    assert_close(ours.moved, theirs.moved, 1e-4)


@pytest.mark.parametrize("early", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_batch_is_the_loop_written_out(early: bool) -> None:
    model, (puzzles, _) = tiny.model(), queue()
    done = in_one_batch(model, replace(FIXED, early=early))
    for i in range(QUEUE):
        x = model.embed(puzzles.inputs[i], TABLE[puzzles.puzzle_id[i]])
        fresh = model.recursion.init()
        latents = jax.tree.map(lambda a, x=x: jnp.broadcast_to(a, x.shape), fresh)
        for step in range(1, 5):  # noqa: B007, read below
            latents = model.refine(latents, x)
            if early and bool(wants_to_halt(model.predict(latents), ACT)):
                break
        assert int(done.steps[i]) == step
        expected = model.predict(latents).logits
        np.testing.assert_allclose(done.prediction.logits[i], expected, atol=1e-4)
    assert (len(set(done.steps.tolist())) > 1) == early


@pytest.mark.parametrize(
    "effort", [REFILL, pytest.param(FIXED, marks=pytest.mark.slow)]
)
def test_a_queue_answers_as_a_batch(effort: Effort) -> None:
    done, ours = in_one_batch(tiny.model(), effort), answers(effort)
    np.testing.assert_array_equal(ours.tokens, done.prediction.logits.argmax(-1))
    np.testing.assert_array_equal(ours.steps, done.steps)
    last = hold(np.asarray(ours.q_halt), np.asarray(ours.steps))[:, -1]
    assert_close(last, done.prediction.q_halt)


def test_boards_after_each_step() -> None:
    """And where the rule would stop."""
    ours, halted = answers(FIXED, boards=True), answers(REFILL)
    assert ours.boards is not None
    np.testing.assert_array_equal(ours.boards[:, -1], ours.tokens)
    steps = np.asarray(halted.steps)
    np.testing.assert_array_equal(
        np.asarray(ours.boards)[np.arange(QUEUE), steps - 1], halted.tokens
    )
    wanted = np.asarray(ours.wanted)
    first = np.where(wanted.any(1), wanted.argmax(1) + 1, FIXED.steps)
    np.testing.assert_array_equal(steps, first)


def unchanged(prediction, memory):
    """Stop when the answer has been the same for two steps."""
    before, same = memory
    answer = prediction.logits.argmax(-1)
    same = jnp.where((answer == before).all(-1), same + 1, 0)
    return same >= 2, (answer, same)


def test_a_halting_rule_of_ones_own() -> None:
    """Evaluation and training stop where it says, with memories of each puzzle."""
    memory = jnp.zeros(tiny.SEQ, jnp.int32), jnp.zeros((), jnp.int32)
    rule, model, (puzzles, _) = Halting(unchanged, memory), tiny.model(), queue()
    limit = 30
    rows = TABLE[puzzles.puzzle_id]
    effort = Effort(steps=limit, early=True, refill=True)
    options = {**OPTIONS, "halting": rule, "effort": effort, "boards": True}
    ours = jax.jit(partial(answer, rows=3, **options))(model, rows, puzzles, queue()[1])
    boards, steps = np.asarray(ours.boards), np.asarray(ours.steps)
    assert steps.min() >= 3
    for board, number in zip(boards, steps, strict=True):
        same = [np.array_equal(a, b) for a, b in itertools.pairwise(board)]
        pairs = [a and b for a, b in itertools.pairwise(same)][: number - 2]
        assert not any(pairs[:-1])
        assert pairs[-1] or number == limit
    act = replace(ACT, max_steps=limit, exploration=0.0)
    carry = refill(model, init_carry(model, QUEUE, tiny.SEQ, memory), puzzles, memory)
    step = jax.jit(partial(supervision_loss, config=act, halting=rule))
    keys = jax.random.split(jax.random.key(0), QUEUE)
    for _ in range(limit):
        carry = step(model, rows, carry, keys)[1][1]
    np.testing.assert_array_equal(carry.steps, steps)
    again = refill(model, carry, puzzles, memory)
    np.testing.assert_array_equal(again.memory[1], 0)


def test_losses_and_scores_of_ones_own() -> None:
    """In the loss, the metrics of training and of evaluation."""

    def mine(prediction, labels, q_target):
        loss, losses, scores = puzzle_loss(prediction, labels, q_target, ACT)
        return loss, losses, scores | {"first_token": prediction.logits[0].argmax()}

    model, (puzzles, _) = tiny.model(), queue()
    rows, keys = TABLE[puzzles.puzzle_id], jax.random.split(jax.random.key(0), QUEUE)
    carry = refill(model, init_carry(model, QUEUE, tiny.SEQ), puzzles)
    change = lambda model, carry, latents, said: {"change": jnp.ones_like(said.q_halt)}
    step = jax.jit(partial(supervision_loss, config=ACT))
    mine_step = jax.jit(
        partial(supervision_loss, config=ACT, puzzle_loss=mine, extra=change)
    )
    loss, _ = step(model, rows, carry, keys)
    more, (_, _, metrics) = mine_step(model, rows, carry, keys)
    assert float(more - loss) == pytest.approx(QUEUE, rel=1e-4)
    assert metrics["change"] == (QUEUE, QUEUE)
    assert "first_token" in metrics
    found, said = jax.jit(partial(evaluate, config=ACT, early=False, puzzle_loss=mine))(
        model, rows, carry
    )
    assert int(found["first_token"][0]) == int(said.logits[:, 0].argmax(-1).sum())


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
    for name in ("q_halt", "moved", "wanted"):
        a, b = (getattr(found, name) for found in (deep, answers(FIXED)))
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
        assert said.q_halt == pytest.approx(float(ours.q_halt[item, step]), 1e-4)
        if step > 0:
            norms = jnp.sqrt(((said.logits - logits) ** 2).sum(-1))
            moved = float(ours.moved[item, step])
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


@pytest.mark.parametrize("sigma", [0.0, pytest.param(0.3, marks=pytest.mark.slow)])
def test_a_rollout_under_a_symmetry_is_the_turned_puzzle_turned_back(sigma) -> None:
    """The first sees the puzzle as it is. Rows do not matter."""
    effort = replace(NOISY, sigma=sigma)
    (puzzles, numbers), ours = queue(), answers(effort, turned=True)
    plain = answers(replace(effort, rollouts=3 if sigma else 1))
    every = slice(0, None, 3 if sigma else 1)
    for name in ("tokens", "q_halt", "moved"):
        first, same = getattr(ours, name)[::3], getattr(plain, name)[every]
        np.testing.assert_array_equal(first, same)
    if sigma:
        return assert_same(answers(effort, rows=7, turned=True), ours)
    view = Symmetry(VIEWS.cells[2], VIEWS.tokens[2])
    seen = puzzles._replace(inputs=jnp.asarray(view.apply(np.asarray(puzzles.inputs))))
    alone = answers(replace(effort, rollouts=1), puzzles=(seen, numbers))
    back = view.inverse().apply(np.asarray(alone.tokens))
    np.testing.assert_array_equal(ours.tokens[2::3], back)
    np.testing.assert_array_equal(ours.steps[2::3], alone.steps)
    right = (back == puzzles.labels) | (np.asarray(puzzles.labels) == IGNORE)
    exact = hold(np.asarray(ours.values["exact_accuracy"]), np.asarray(ours.steps))
    np.testing.assert_array_equal(exact[2::3, -1], right.all(1))


def test_particles_are_drawn_by_the_halting_head() -> None:
    """Each about as often as its share says, or all remain if shares are alike."""
    draw = jax.jit(parents)
    key = jax.random.key(0)
    np.testing.assert_array_equal(draw(jnp.array([-9.0, -9, -9, -9]), key), range(4))
    np.testing.assert_array_equal(draw(jnp.array([0.0, 0, 0, -9]), key), range(4))
    np.testing.assert_array_equal(draw(jnp.array([-30.0, -30, 5, -30]), key), [2] * 4)
    q_halt = jnp.array([3.0, 2.0, *[-9.0] * 8])
    p = 1 / (1 + np.exp(-np.asarray(q_halt)))
    expected = 10 * p / p.sum()
    for number in range(5):
        drawn = draw(q_halt, jax.random.key(number))
        times = np.bincount(drawn, minlength=10)
        assert (abs(times - expected) < 1).all()


@pytest.mark.slow
def test_particles_written_out() -> None:
    """All of a puzzle make a step, then some are replaced; rows do not matter."""
    head = tiny.model().halt_head.weight
    model = eqx.tree_at(lambda m: m.halt_head.weight, tiny.model(), 40 * head)
    (puzzles, numbers), K = queue(), 4
    effort = replace(FIXED, rollouts=K, sigma=1.0, particles=True)

    def run(rows: int) -> Answers:
        options = {**OPTIONS, "effort": effort, "rows": rows}
        step = jax.jit(partial(answer, **options))
        return step(model, TABLE[puzzles.puzzle_id], puzzles, numbers)

    ours = run(2 * K)
    assert_same(run(3 * K), ours)
    moves = 0
    for number in range(3):
        x = model.embed(puzzles.inputs[number], TABLE[puzzles.puzzle_id[number]])
        fresh = jnp.stack(
            [jnp.broadcast_to(a, x.shape) for a in model.recursion.init()]
        )
        states = [fresh] * K
        for step in range(FIXED.steps):
            at = [jnp.array([number]), jnp.arange(K + 1), jnp.array([step])]
            keys = noise_keys(0, *jnp.broadcast_arrays(*at))
            if step:
                q_halt = jnp.array([model.predict(tuple(s)).q_halt for s in states])
                drawn = parents(q_halt, keys[K])
                moves += int((drawn != jnp.arange(K)).any())
                states = [states[i] for i in drawn]
            for k, (y, z) in enumerate(states):
                noise = jax.random.normal(jax.random.fold_in(keys[k], 1), z.shape)
                states[k] = jnp.stack(model.refine((y, z + noise), x))
        said = [model.predict(tuple(state)).logits.argmax(-1) for state in states]
        np.testing.assert_array_equal(ours.tokens[K * number : K * number + K], said)
    assert moves > 2


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 4), (8, 1)])
def test_meshes_answer_the_same(sizes: tuple[int, int]) -> None:
    def on(mesh) -> Answers:
        step = make_queue_step(
            partial(answer, effort=NOISY, rows=2, views=VIEWS, **OPTIONS),
            cast,
            mesh,
            replace(tiny.PLAN, batch_size=QUEUE),
            tiny.model(),
        )
        puzzles = global_batch(mesh, QUEUE, 0)(jax.device_get(queue()))
        return everywhere(step(tiny.model(), make_table(TABLE, mesh.size), *puzzles))

    ours = on(make_mesh(MeshConfig(data=sizes[0], model=sizes[1])))
    assert_same(ours, answers(NOISY, turned=True))
    assert ours.sweeps.shape == (8,)


@pytest.mark.slow
def test_a_variant_with_noise_of_its_own_has_rollouts_without_sigma() -> None:
    """The first is the answer of training; the others start elsewhere."""
    model = tiny.model(replace(tiny.MODEL, variant="eqr"))
    puzzles, numbers = queue()
    effort = replace(REFILL, rollouts=3)
    rows = TABLE[puzzles.puzzle_id]
    ours = jax.jit(partial(answer, effort=effort, rows=4, **OPTIONS))(
        model, rows, puzzles, numbers
    )
    done = in_one_batch(model, REFILL)
    tokens = np.asarray(ours.tokens).reshape(QUEUE, 3, -1)
    np.testing.assert_array_equal(tokens[:, 0], done.prediction.logits.argmax(-1))
    np.testing.assert_array_equal(ours.steps[::3], done.steps)
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
    ruled = np.array([[True, False, True, False]])
    chosen = {
        rule: int(select(rule, tokens, q_halt, residual, steps, wanted, ruled)[0])
        for rule in CHOICES
    }
    assert chosen == {"best_q": 3, "mode": 2, "residual": 2, "first": 1, "rules": 2}
    nobody = np.zeros((1, 4), bool)
    for rule in ("first", "rules"):
        best = select(rule, tokens, q_halt, residual, steps, nobody, nobody)
        assert best[0] == 3, "of the highest q"


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
    for name in theirs:
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
