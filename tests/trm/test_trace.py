"""Every step of a trace is what evaluation gives after so many steps."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ACTConfig, TRMConfig
from tests.tiny import BATCH, MODEL, SEQ, model, puzzles
from trm.act import init_carry, refill, solve
from trm.model import cast
from trm.trace import trace

STEPS = 4
EQR = replace(MODEL, variant="eqr", prefix=0, puzzle_dim=0)
MLP = replace(MODEL, mixer="mlp", positions="none")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (EQR, "float32"),
        pytest.param(MODEL, "float32", marks=pytest.mark.slow),
        pytest.param(MLP, "bfloat16", marks=pytest.mark.slow),
    ],
    ids=["eqr", "trm", "mlp"],
)
def test_each_step_is_that_of_evaluation(shape: TRMConfig, dtype: str) -> None:
    """`act.solve` after one step and after more than the model is made for."""
    made = cast(model(shape), jnp.dtype(dtype))
    batch = jax.tree.map(jnp.asarray, puzzles(3, BATCH))
    rows = 0.1 * jax.random.normal(jax.random.key(2), (BATCH, shape.puzzle_dim))
    told = jax.jit(trace, static_argnames=("config", "steps"))(
        made, rows, batch, config=ACTConfig(max_steps=3), steps=STEPS
    )
    evaluate = jax.jit(solve, static_argnames=("config", "early"))
    fresh = refill(made, init_carry(made, BATCH, SEQ), batch)
    assert told.answers.shape == (STEPS, BATCH, SEQ)
    for i in (0, STEPS - 1):
        config = ACTConfig(max_steps=i + 1)
        _, prediction = evaluate(made, rows, fresh, config=config, early=False)
        answers = np.argmax(prediction.logits, axis=-1)
        np.testing.assert_array_equal(told.answers[i], answers)
        probability = 1 / (1 + np.exp(-np.asarray(prediction.q_halt, np.float64)))
        np.testing.assert_allclose(told.q_halt[i], probability, atol=1e-6)
    assert (told.answers[0] != told.answers[-1]).any(), "the steps do something"


@pytest.mark.parametrize(
    "halt", [pytest.param("positive", marks=pytest.mark.slow), "compare"]
)
def test_halts_where_halting_evaluation_stops(halt: str) -> None:
    """The first step that the rule holds after is the steps of `early=True`."""
    made = cast(model(), jnp.dtype("float32"))
    batch = jax.tree.map(jnp.asarray, puzzles(4, BATCH))
    rows = jnp.zeros((BATCH, MODEL.puzzle_dim))
    config = ACTConfig(max_steps=STEPS, halt=halt)  # pyright: ignore
    told = jax.jit(partial(trace, config=config, steps=STEPS))(made, rows, batch)
    fresh = refill(made, init_carry(made, BATCH, SEQ), batch)
    carry, _ = jax.jit(partial(solve, config=config, early=True))(made, rows, fresh)
    first = np.where(told.halts.any(axis=0), told.halts.argmax(axis=0) + 1, STEPS)
    np.testing.assert_array_equal(first, carry.steps)
    assert len(set(first.tolist())) > 1
