"""A TRM in the train step: meshes, slices, episodes, evaluation."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from configs import ACTConfig, MeshConfig, TRMConfig
from data.puzzles.dataset import IGNORE, Puzzle
from tests import tiny
from tests.tiny import assert_close, assert_equal, mesh_of
from train.gradients import make_gradients
from train.mesh import global_batch, layout, make_mesh, process_rows
from train.state import TrainState, abstract_state, init_state
from train.step import make_eval_step, make_train_step, make_update
from trm.act import Carry, init_carry
from trm.objective import row_ids

SLOW = pytest.mark.slow
MESHES = [(4, 2), pytest.param((8, 1), marks=SLOW), pytest.param((1, 8), marks=SLOW)]


@cache
def run(
    mesh: Mesh, steps: int = 3, **step_config: int
) -> tuple[TrainState, list[dict]]:
    """Return the state after `steps` updates, and all metrics, on the host."""
    optimizer = tiny.optimizer()
    state = init_state(tiny.init(optimizer), mesh)
    step = make_train_step(
        tiny.objective(), optimizer, mesh, replace(tiny.PLAN, **step_config), state
    )
    supervision_steps, history = step_config.get("supervision_steps", 1), []
    for t in range(steps):
        state, metrics = step(
            state, tiny.batch(mesh, t * supervision_steps, 1, supervision_steps)
        )
        history.append(jax.device_get(metrics))
    return tiny.host(state), history


@pytest.mark.parametrize("sizes", MESHES)
def test_meshes_compute_the_same(sizes: tuple[int, int]) -> None:
    """Metrics, weights, average and table after three SGD updates."""
    state, metrics = run(mesh_of(*sizes))
    expected, expected_metrics = run(mesh_of(1, 1))
    assert_close(metrics, expected_metrics)
    assert_close(state.carry, expected.carry, 1e-4)
    for part in ("model", "ema", "table", "opt_state"):
        assert_close(getattr(state, part), getattr(expected, part))
    halted = [float(m["accuracy"][1]) for m in metrics]
    assert 0 < sum(halted) < 3 * tiny.BATCH, "rows must halt at different times"


@pytest.mark.parametrize("sizes", MESHES)
@pytest.mark.slow
def test_meshes_compute_the_same_gradients(sizes: tuple[int, int]) -> None:
    assert_close(gradients(mesh_of(*sizes)), gradients(mesh_of(1, 1)))


@cache
def gradients(mesh: Mesh) -> tuple:
    """Return the gradients of weights and looked-up rows, on the host."""
    state = init_state(tiny.init(tiny.optimizer()), mesh)
    made = make_gradients(tiny.objective(), mesh, tiny.PLAN, state, refill=True)
    batch = jax.tree.map(lambda a: a[0], tiny.batch(mesh, 0))
    grads, table_grads, _, _ = tiny.gradients(made, state, batch)
    return jax.device_get((grads, table_grads))


@pytest.mark.parametrize("sizes", [*MESHES[:1], pytest.param((1, 1), marks=SLOW)])
def test_slices_are_the_whole_batch(sizes: tuple[int, int]) -> None:
    """Gradient accumulation changes nothing."""
    mesh = mesh_of(*sizes)
    state, metrics = run(mesh, accumulation=2)
    expected, expected_metrics = run(mesh_of(1, 1))
    assert_close(metrics, expected_metrics)
    assert_close(
        (state.model, state.carry, state.table),
        (expected.model, expected.carry, expected.table),
        1e-4,
    )


def test_the_first_state_is_split() -> None:
    mesh = mesh_of(4, 2)
    state = init_state(tiny.init(tiny.optimizer()), mesh)
    leaf = state.model.recursion.network.blocks[0].mlp.gate_up
    assert leaf.shape == (16, 512)
    assert leaf.addressable_shards[0].data.shape == (16, 256)
    assert state.carry.steps.addressable_shards[0].data.shape == (2,)
    one = init_state(tiny.init(tiny.optimizer()), mesh_of(1, 1))
    assert_equal(jax.device_get(state.model), jax.device_get(one.model))


@pytest.mark.slow
def test_several_updates_in_a_dispatch_are_the_same_updates() -> None:
    mesh, optimizer = mesh_of(4, 2), tiny.adam_rules()
    step = make_train_step(
        tiny.objective(),
        optimizer,
        mesh,
        tiny.PLAN,
        abstract_state(tiny.init(optimizer), mesh),
    )
    single = init_state(tiny.init(optimizer), mesh)
    summed = None
    for t in range(3):
        single, metrics = step(single, tiny.batch(mesh, t))
        metrics = jax.device_get(metrics)
        summed = metrics if summed is None else jax.tree.map(np.add, summed, metrics)
    several, metrics = step(
        init_state(tiny.init(optimizer), mesh), tiny.batch(mesh, 0, 3)
    )
    assert summed is not None
    assert int(several.step) == int(several.updates) == 3
    assert_close(several.model, single.model, 1e-3)
    assert_close(metrics["q_halt_loss"], summed["q_halt_loss"], 1e-3)


@pytest.mark.slow
def test_two_supervision_steps_share_an_update() -> None:
    """Its gradient is the mean of two steps at the same weights."""
    mesh, optimizer = mesh_of(1, 1), tiny.optimizer()
    state, metrics = run(mesh, steps=1, supervision_steps=2)
    assert int(state.updates) == int(state.step) == 1
    assert metrics[0]["lm_loss"][1] == 2 * tiny.BATCH

    start = init_state(tiny.init(optimizer), mesh)
    made = make_gradients(tiny.objective(), mesh, tiny.PLAN, start, refill=True)
    one = jax.tree.map(lambda a: a[0], tiny.batch(mesh, 0))
    two = jax.tree.map(lambda a: a[0], tiny.batch(mesh, 1))
    first, _, carry, _ = tiny.gradients(made, start, one)
    after = eqx.tree_at(lambda s: (s.carry, s.updates), start, (carry, jnp.array(1)))
    second, _, _, _ = tiny.gradients(made, after, two)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    model = eqx.apply_updates(start.model, jax.tree.map(lambda g: -0.1 * g, mean))
    assert_close(state.model, model)


def test_the_step_is_traced_once() -> None:
    """A run compiles one program."""
    traces = 0

    def counting(carry: Carry) -> jax.Array:
        nonlocal traces
        traces += 1
        return row_ids(carry)

    mesh, optimizer = mesh_of(4, 2), tiny.adam_rules()
    state = init_state(tiny.init(optimizer), mesh)
    objective = tiny.objective()
    objective.row_ids = counting
    step = make_train_step(objective, optimizer, mesh, tiny.PLAN, state)
    for t in range(4):
        state, _ = step(state, tiny.batch(mesh, t))
    assert traces == 1


def test_the_state_is_donated() -> None:
    mesh, optimizer = mesh_of(4, 2), tiny.adam_rules()
    state = init_state(tiny.init(optimizer), mesh)
    step = make_train_step(tiny.objective(), optimizer, mesh, tiny.PLAN, state)
    old = jax.tree.leaves(state)
    step(state, tiny.batch(mesh, 0))
    assert all(leaf.is_deleted() for leaf in old)


def compiled_gradients(mesh: Mesh, config: TRMConfig) -> jax.stages.Compiled:
    state = abstract_state(tiny.init(tiny.optimizer(), config), mesh)
    made = make_gradients(tiny.objective(), mesh, tiny.PLAN, state, refill=True)
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tiny.puzzles(0, 1, 16)))
    inputs = (state.model, state.table, state.carry, state.scale, state.updates)
    return jax.jit(made).lower(*inputs, batch).compile()


@pytest.mark.parametrize("mixer", [pytest.param("attention", marks=SLOW), "mlp"])
@pytest.mark.slow
def test_cycles_without_gradient_cost_no_memory(mixer: str) -> None:
    positions = "rope" if mixer == "attention" else "none"
    config = replace(tiny.MODEL, mixer=mixer, positions=positions)

    def temporary(**sizes: int) -> int:
        compiled = compiled_gradients(mesh_of(1, 1), replace(config, **sizes))
        memory = compiled.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    base = temporary(H_cycles=2)
    assert temporary(H_cycles=8) < 1.001 * base
    assert temporary(H_cycles=2, L_cycles=6) > 1.3 * base, "the last cycle has gradient"


@pytest.mark.parametrize("sizes", MESHES[:2])
@pytest.mark.slow
def test_gradients_are_reduced_once(sizes: tuple[int, int]) -> None:
    """The number of collectives does not grow with the recursion."""

    def collectives(cycles: int) -> int:
        config = replace(tiny.MODEL, L_cycles=cycles)
        text = compiled_gradients(mesh_of(*sizes), config).as_text() or ""
        return len(re.findall(r"(?:all-reduce|all-gather|reduce-scatter)\(", text))

    assert 0 < collectives(2) == collectives(5)


@pytest.mark.slow
def test_exploration_does_not_depend_on_the_mesh() -> None:
    always = ACTConfig(max_steps=6, exploration=1.0)

    def halted(mesh: Mesh) -> np.ndarray:
        optimizer = tiny.optimizer()
        state = init_state(tiny.init(optimizer, act=always), mesh)
        step = make_train_step(
            tiny.objective(always), optimizer, mesh, tiny.PLAN, state
        )
        for t in range(3):
            state, _ = step(state, tiny.batch(mesh, t))
        return np.asarray(state.carry.steps)

    np.testing.assert_array_equal(halted(mesh_of(1, 1)), halted(mesh_of(4, 2)))


@pytest.mark.parametrize("sizes", MESHES)
@pytest.mark.parametrize("early", [False, True])
def test_evaluation_is_the_same_on_any_mesh(
    sizes: tuple[int, int], early: bool
) -> None:
    metrics, prediction = evaluate(mesh_of(*sizes), early)
    expected, expected_prediction = evaluate(mesh_of(1, 1), early)
    assert metrics["accuracy"][1] == tiny.BATCH - 3
    assert_close(metrics, expected)
    assert_close(prediction, expected_prediction, 1e-4)
    mean_steps = metrics["steps"][0] / metrics["steps"][1]
    assert (mean_steps < tiny.ACT.max_steps) == early


@cache
def evaluate(mesh: Mesh, early: bool) -> tuple:
    """Return metrics and predictions of a batch with three rows of padding."""
    state = init_state(tiny.init(tiny.optimizer()), mesh)
    step = make_eval_step(
        tiny.objective(early_halt=early), mesh, tiny.PLAN, state.model
    )
    drawn = tiny.puzzles(5, tiny.BATCH)
    drawn.labels[-3:] = IGNORE
    batch = global_batch(mesh, tiny.BATCH, 0)(drawn)
    return jax.device_get(step(state.ema, state.table, batch))


@pytest.mark.slow
def test_episode_is_the_papers_loop() -> None:
    """One update per supervision step on one batch, until all rows have halted."""
    mesh, optimizer = mesh_of(1, 1), tiny.optimizer()
    state = init_state(tiny.init(optimizer), mesh)
    step = make_train_step(
        tiny.objective(), optimizer, mesh, tiny.PLAN, state, episode=True
    )
    batch = jax.tree.map(lambda a: a[0, 0], tiny.batch(mesh, 0))
    inputs = np.asarray(batch.inputs)

    state, metrics = step(state, batch)
    assert int(state.step) == 1
    assert 1 <= int(state.updates) <= tiny.ACT.max_steps
    assert bool(state.carry.halted.all())
    assert int(metrics["accuracy"][1]) == tiny.BATCH, "each row is scored once"
    assert float(metrics["lm_loss"][1]) == float(state.carry.steps.sum())
    np.testing.assert_array_equal(state.carry.puzzle.inputs, inputs)


@pytest.mark.slow
def test_halted_rows_of_an_episode_do_not_change() -> None:
    mesh = mesh_of(1, 1)
    state = init_state(tiny.init(tiny.optimizer()), mesh)
    gradients = make_gradients(tiny.objective(), mesh, tiny.PLAN, state, refill=False)
    batch = jax.tree.map(lambda a: a[0], tiny.batch(mesh, 0))
    carry = tiny.objective().refill(
        state.model, state.carry, jax.tree.map(lambda a: a[0], batch)
    )
    half = jnp.arange(tiny.BATCH) < tiny.BATCH // 2
    carry = eqx.tree_at(lambda c: c.halted, carry, half)
    state = eqx.tree_at(lambda s: s.carry, state, carry)
    _, (_, row_grads), after, metrics = tiny.gradients(gradients, state, batch)
    pick = lambda tree: jax.tree.map(lambda a: a[: tiny.BATCH // 2], tree)
    assert_equal(pick(after), pick(carry))
    assert float(metrics["lm_loss"][1]) == tiny.BATCH // 2
    np.testing.assert_array_equal(row_grads[: tiny.BATCH // 2], 0.0)
    assert (np.abs(row_grads[tiny.BATCH // 2 :]).max(axis=1) > 0).all()


@pytest.mark.slow
def test_the_table_of_an_episode_changes_for_rows_that_have_not_halted() -> None:
    """The row of a puzzle that has halted everywhere does not even decay."""
    mesh, optimizer, objective = mesh_of(1, 1), tiny.optimizer(), tiny.objective()
    state = init_state(tiny.init(optimizer), mesh)
    half = np.arange(tiny.BATCH) < tiny.BATCH // 2
    drawn = tiny.puzzles(0, tiny.BATCH)
    puzzle = drawn._replace(puzzle_id=np.where(half, [0, 2] * 8, [2, 3] * 8))
    puzzle = jax.tree.map(lambda a: jnp.asarray(a, jnp.int32), puzzle)
    carry = objective.refill(state.model, state.carry, puzzle)
    carry = eqx.tree_at(lambda c: c.halted, carry, jnp.asarray(half))
    state = eqx.tree_at(lambda s: s.carry, state, carry)
    update = make_update(objective, optimizer, mesh, tiny.PLAN, state, refill=False)
    batch = jax.tree.map(lambda a: a[None], puzzle)
    after, _ = jax.jit(update)(state, batch)
    changed = np.asarray(after.table.rows != state.table.rows).any(axis=1)
    np.testing.assert_array_equal(changed, [False, False, True, True, False])


@pytest.mark.slow
def test_bfloat16_keeps_parameters_in_float32() -> None:
    mesh, optimizer = mesh_of(4, 2), tiny.adam_rules()
    init = tiny.init(optimizer, precision="bfloat16")
    state = init_state(init, mesh)
    step_config = replace(tiny.PLAN, precision="bfloat16")
    step = make_train_step(tiny.objective(), optimizer, mesh, step_config, state)
    state, metrics = step(state, tiny.batch(mesh, 0))
    floats = jax.tree.leaves((state.model, state.ema, state.opt_state, state.table))
    assert {str(x.dtype) for x in floats} == {"float32", "int32"}
    assert {x.dtype for x in jax.tree.leaves(state.carry.latents)} == {
        jnp.dtype(jnp.bfloat16)
    }
    assert np.isfinite(metrics["lm_loss"][0])


@pytest.mark.slow
def test_rows_without_labels_have_no_loss() -> None:
    """They count in no metric, and nothing becomes NaN."""
    mesh, optimizer = mesh_of(1, 1), tiny.optimizer()
    state = init_state(tiny.init(optimizer), mesh)
    step = make_train_step(tiny.objective(), optimizer, mesh, tiny.PLAN, state)
    drawn = tiny.puzzles(0, 1, 1, tiny.BATCH)
    blank = Puzzle(drawn.inputs, np.full_like(drawn.labels, IGNORE), drawn.puzzle_id)
    state, metrics = step(state, jax.tree.map(jnp.asarray, blank))
    assert float(metrics["lm_loss"][0]) == 0.0
    assert float(metrics["accuracy"][1]) == 0.0
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state.model))


@pytest.mark.parametrize(
    ("config", "value"),
    [(MeshConfig(data=16), "16 x 1"), (MeshConfig(data=3, model=3), "3 x 3")],
)
def test_a_mesh_must_fit_the_devices(config: MeshConfig, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        make_mesh(config)


def test_a_batch_must_fit_the_mesh() -> None:
    with pytest.raises(ValueError, match="20"):
        process_rows(mesh_of(4, 2), 20)


def test_the_carry_and_its_spec_cover_every_leaf() -> None:
    model = tiny.model()
    carry = init_carry(model, 4, tiny.SEQ)
    assert all(leaf.shape[0] == 4 for leaf in jax.tree.leaves(carry))
    specs = layout(model, mesh_of(1, 8))
    assert any("model" in tuple(spec) for spec in jax.tree.leaves(specs))


@pytest.mark.slow
def test_sixty_four_devices() -> None:
    """An 8 x 8 mesh in a child process."""
    code = (
        "import jax, numpy as np\n"
        "from configs import MeshConfig\n"
        "from tests import tiny\n"
        "from dataclasses import replace\n"
        "from train.mesh import make_mesh, global_batch\n"
        "from train.state import init_state\n"
        "from train.step import make_train_step\n"
        "mesh = make_mesh(MeshConfig(data=8, model=8))\n"
        "optimizer = tiny.optimizer()\n"
        "state = init_state(tiny.init(optimizer, batch=64), mesh)\n"
        "step_config = replace(tiny.PLAN, batch_size=64)\n"
        "objective = tiny.objective()\n"
        "step = make_train_step(objective, optimizer, mesh, step_config, state)\n"
        "for t in range(3):\n"
        "    batch = global_batch(mesh, 64, 2)(tiny.puzzles(t, 1, 1, 64))\n"
        "    state, metrics = step(state, batch)\n"
        "    print(jax.device_count(), float(metrics['lm_loss'][0]))\n"
    )
    flags = "--xla_force_host_platform_device_count=64"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.split()
    assert lines[0::2] == ["64"] * 3
    assert np.isfinite([float(x) for x in lines[1::2]]).all()
