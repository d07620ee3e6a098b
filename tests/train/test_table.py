"""The puzzle table split over all devices, against a whole table."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding

from configs import RunConfig
from tests import tiny
from tests.tiny import mesh_of
from train.mesh import BATCH, REPLICATED
from train.runs.checkpoint import Checkpoints
from train.runs.integrity import fingerprint, kinds
from train.state import abstract_state, init_state
from train.step import make_train_step
from train.table import TABLE, lookup, make_table, update_rows
from trm.puzzle_table import sign_sgd_rows

MESHES = [(1, 1), (8, 1), (4, 2), (1, 8)]
ROWS, WIDTH, BATCH_SIZE = 21, 4, 32
BEYOND = np.iinfo(np.int32).max


def table_of(mesh: Mesh) -> tuple[Any, np.ndarray]:
    """Return a table on a mesh, and its rows."""
    rows = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    table = jax.device_put(make_table(rows, mesh.size), NamedSharding(mesh, TABLE))
    return table, rows


def some_ids(mesh: Mesh) -> tuple[jax.Array, np.ndarray]:
    """Return ids with repeats, the first and last row, and ids beyond the table."""
    ids = np.random.default_rng(1).integers(0, ROWS, BATCH_SIZE).astype(np.int32)
    ids[[3, 8, 11]], ids[[5, 30]] = BEYOND, [0, ROWS - 1]
    return jax.device_put(ids, NamedSharding(mesh, BATCH)), ids


@pytest.mark.parametrize("sizes", MESHES)
def test_rows_are_looked_up_to_the_last_bit(sizes: tuple[int, int]) -> None:
    mesh = mesh_of(*sizes)
    (table, rows), (ids, numbers) = table_of(mesh), some_ids(mesh)
    find = jax.shard_map(
        lookup, mesh=mesh, in_specs=(TABLE, BATCH), out_specs=BATCH, check_vma=False
    )
    known = numbers < ROWS
    looked_up = np.asarray(jax.jit(find)(table, ids))
    np.testing.assert_array_equal(looked_up[known], rows[numbers[known]])
    np.testing.assert_array_equal(looked_up[~known], 0.0)


@pytest.mark.parametrize("sizes", MESHES)
def test_rows_are_updated_to_the_last_bit(sizes: tuple[int, int]) -> None:
    """As in a whole table, by the same rule; padding remains zero."""
    mesh = mesh_of(*sizes)
    (table, rows), (ids, numbers) = table_of(mesh), some_ids(mesh)
    grads = np.random.default_rng(2).normal(size=(BATCH_SIZE, WIDTH)).astype(np.float32)
    rule = partial(sign_sgd_rows, lr=jnp.float32(0.1), weight_decay=0.3)
    update = lambda rows, grads, count: rule(rows, *grads)
    change = jax.shard_map(
        partial(update_rows, update),
        mesh=mesh,
        in_specs=(TABLE, BATCH, BATCH, REPLICATED),
        out_specs=TABLE,
        check_vma=False,
    )
    placed = jax.device_put(grads, NamedSharding(mesh, BATCH))
    changed = jax.jit(change, donate_argnums=0)(table, ids, placed, jnp.int32(0))
    assert changed.length == ROWS
    expected = np.asarray(jax.jit(rule)(*map(jnp.asarray, (rows, numbers, grads))))
    np.testing.assert_array_equal(changed.rows[:ROWS], expected)
    np.testing.assert_array_equal(changed.rows[ROWS:], 0.0)
    assert not np.array_equal(expected, rows)


def test_no_device_holds_more_than_its_part() -> None:
    """21 rows are padded to 24 on 8 devices, before and after a step."""
    mesh, optimizer = mesh_of(4, 2), tiny.optimizer()
    table, _ = table_of(mesh)
    assert {s.data.shape for s in table.rows.addressable_shards} == {(3, WIDTH)}
    state = init_state(tiny.init(optimizer), mesh)
    step = make_train_step(tiny.objective(), optimizer, mesh, tiny.PLAN, state)
    after, _ = step(state, tiny.batch(mesh, 0))
    for shard in after.table.rows.addressable_shards:
        assert shard.data.shape == (1, tiny.MODEL.puzzle_dim), "5 rows are 8"


def test_a_step_does_not_copy_the_table() -> None:
    """It is updated in place, without temporaries of its size."""
    mesh, optimizer, rows = mesh_of(8, 1), tiny.optimizer(), 80_000
    width = tiny.MODEL.puzzle_dim
    init = tiny.init(optimizer, puzzles=rows)
    step = make_train_step(
        tiny.objective(),
        optimizer,
        mesh,
        tiny.PLAN,
        abstract_state(init, mesh),
        compiled=False,
    )
    state = abstract_state(init, mesh)
    batch = jax.eval_shape(lambda: tiny.batch(mesh, 0))
    program = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    memory = program.memory_analysis()
    assert memory is not None
    part = 4 * rows // 8 * width
    assert memory.alias_size_in_bytes > part, "in place"
    assert memory.argument_size_in_bytes < 2 * part
    assert memory.temp_size_in_bytes < part


# -- in checkpoints --------------------------------------------------------------------


def test_the_fingerprint_does_not_depend_on_the_mesh() -> None:
    tables = [table_of(mesh_of(*sizes))[0] for sizes in MESHES]
    prints = [fingerprint({"rows": table}) for table in tables]
    assert prints[0] == prints[1] == prints[2] == prints[3]
    assert kinds({"rows": tables[1]}) == {"rows": f"float32[{ROWS},{WIDTH}]"}
    other = make_table(tables[0].rows.at[ROWS - 1, 0].add(1.0))
    assert fingerprint({"rows": other}) != prints[0]


@pytest.mark.parametrize("saved", [(8, 1), (1, 1)])
def test_a_checkpoint_is_read_on_any_mesh(
    tmp_path: Path, saved: tuple[int, int]
) -> None:
    """5 rows are padded to 8 on 8 devices, to 6 on 2."""
    init = tiny.init(tiny.optimizer())
    state = init_state(init, mesh_of(*saved))
    checkpoints = Checkpoints(tmp_path / "checkpoints", RunConfig())
    checkpoints.save(state)
    for sizes, rows in (((4, 2), 8), ((2, 1), 6), ((1, 1), 5)):
        restored = checkpoints.restore(
            lambda step, sizes=sizes: abstract_state(init, mesh_of(*sizes))
        )
        assert restored is not None
        assert restored.table.rows.shape[0] == rows
        tiny.assert_equal(tiny.host(restored).table, tiny.host(state).table)
        np.testing.assert_array_equal(restored.table.rows[tiny.PUZZLES :], 0.0)
    checkpoints.close()
