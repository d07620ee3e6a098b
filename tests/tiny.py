"""A tiny TRM with optimizer, state and puzzles, for tests."""

from dataclasses import replace
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from configs import (
    ACTConfig,
    EvalConfig,
    MeshConfig,
    OptimConfig,
    TrainTRM,
    TRMConfig,
)
from data.puzzles.dataset import IGNORE, Puzzle
from train.experiment import StepConfig
from train.mesh import global_batch, make_mesh
from train.optim import Optimizer, make_tx, warmup_cosine
from train.state import TrainState, new_state
from train.trm import TRMExperiment
from trm.build import build_trm
from trm.model import TRM, cast
from trm.puzzle_table import sign_sgd_rows

SEQ, VOCAB, PUZZLES, BATCH = 12, 7, 5, 16
MODEL = TRMConfig(
    mixer="attention",
    positions="rope",
    dim=16,
    heads=2,
    layers=1,
    H_cycles=2,
    L_cycles=2,
    prefix=4,
    puzzle_dim=16,
)
ACT = ACTConfig(max_steps=3, exploration=0.3)
PLAN = StepConfig(batch_size=BATCH, precision="float32", seed=0)


@cache
def mesh_of(data: int, model: int) -> Mesh:
    return make_mesh(MeshConfig(data=data, model=model))


def model(config: TRMConfig = MODEL, seed: int = 0) -> TRM:
    """Return a model with a random halting head, so that rows halt at random."""
    built = build_trm(config, vocab=VOCAB, seq=SEQ, key=jax.random.key(seed))
    halt = jax.random.normal(jax.random.key(seed + 1), built.halt_head.weight.shape)
    bias = jnp.array([-0.3, 0.2])
    return eqx.tree_at(
        lambda m: (m.halt_head.weight, m.halt_head.bias), built, (halt, bias)
    )


def optimizer(optimizer: optax.GradientTransformation | None = None) -> Optimizer:
    """Return SGD by default, as AdamATan2 would amplify rounding."""
    constant = lambda rate: lambda count: jnp.asarray(rate, jnp.float32)
    return Optimizer(
        tx=optimizer or optax.sgd(0.1),
        schedule=constant(0.1),
        ema=0.9,
        table_update=lambda table, grads, count: sign_sgd_rows(
            table, *grads, lr=jnp.float32(0.01), weight_decay=0.1
        ),
    )


def adam_rules() -> Optimizer:
    schedule = warmup_cosine(1e-3, 2, 100, 1.0)
    return replace(optimizer(), tx=make_tx(OptimConfig(), schedule))


def objective(act: ACTConfig = ACT, *, early_halt: bool = False) -> TRMExperiment:
    mode = "halt" if early_halt else "fixed"
    config = TrainTRM(model=MODEL, act=act, eval=EvalConfig(mode=mode))
    sizes = {"vocab": VOCAB, "seq": SEQ, "puzzles": PUZZLES}
    return TRMExperiment(config, sizes=sizes)


def gradients(made: Any, state: TrainState, batch: Any) -> Any:
    """Return mean gradients, (ids, gradients) of table rows, carry and metrics."""
    inputs = (state.model, state.table, state.carry, state.scale, state.updates)
    grads, (ids, rows), weight, metrics, carry = jax.jit(made)(*inputs, batch)
    mean = lambda tree: jax.tree.map(lambda g: g / weight, tree)
    return mean(grads), (ids, mean(rows)), carry, metrics


def init(
    optimizer: Optimizer,
    config: TRMConfig = MODEL,
    *,
    batch: int = BATCH,
    act: ACTConfig = ACT,
    precision: Any = "float32",
    puzzles: int = PUZZLES,
) -> Any:
    """Return a function that creates the first state."""
    step_config = replace(PLAN, precision=precision)
    table = 0.1 * jax.random.normal(jax.random.key(9), (puzzles, config.puzzle_dim))

    def make() -> TrainState:
        fresh = model(config)
        carry = objective(act).init_carry(cast(fresh, step_config.dtype), batch)
        return new_state(fresh, table, carry, optimizer.tx, ema=True)

    return make


def puzzles(seed: int, *leading: int) -> Puzzle:
    """Return random boards; labels are a fixed function of the inputs, some ignored."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(1, VOCAB, (*leading, SEQ)).astype(np.int32)
    labels = np.where(inputs == 1, IGNORE, VOCAB - inputs).astype(np.int32)
    ids = rng.integers(0, PUZZLES, leading).astype(np.int32)
    return Puzzle(inputs, labels, ids)


def batch(mesh: Mesh, seed: int, calls: int = 1, supervision_steps: int = 1) -> Puzzle:
    """Return a global input of the train step; its batch `i` is `puzzles(seed + i)`."""
    drawn = [puzzles(seed + i, BATCH) for i in range(calls * supervision_steps)]
    stack = lambda *a: np.stack(a).reshape(calls, supervision_steps, *a[0].shape)
    return global_batch(mesh, BATCH, 2)(jax.tree.map(stack, *drawn))


def assert_close(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    """Compare leaves up to `tolerance` times the largest magnitude in each."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        scale = max(np.abs(y).max(initial=0.0), 1e-6)
        np.testing.assert_allclose(x / scale, y / scale, atol=tolerance)


def assert_equal(a: Any, b: Any) -> None:
    """Compare leaves bit for bit."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def host(state: TrainState) -> TrainState:
    """Copy a state to the host, without padding of the table."""
    state = jax.device_get(state)
    rows = state.table.rows[: state.table.length]
    return eqx.tree_at(lambda s: s.table.rows, state, rows)
