"""Our train steps, lowered for devices that are not here."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from benchmarks.cases import SEQ, VOCAB
from configs import TrainGPT, TrainTRM, even_parts
from data.puzzles.dataset import Puzzle
from data.text.dataset import Tokens
from gpt.attention import Kernel
from gpt.build import build_gpt
from gpt.model import GPT
from gpt.objective import GPTObjective
from train import gpt as train_gpt
from train import trm as train_trm
from train.gradients import StepConfig
from train.mesh import AXES
from train.objective import Objective
from train.state import TrainState, abstract_state, make_init
from train.step import make_train_step
from trm.build import build_trm
from trm.model import TRM
from trm.objective import TRMObjective

TOKENS = 50257
"""Different tokens of GPT-2's byte pairs."""

Lowered = tuple[jax.stages.Lowered, TrainState]
"""A train step, and the shapes of its state."""


def make_step_config(config: TrainTRM | TrainGPT, accumulation: int) -> StepConfig:
    """How a step of a run is carried out."""
    return StepConfig(
        batch_size=config.batch_size,
        precision=config.precision,
        seed=config.seed,
        accumulation=accumulation,
    )


def rows(mesh: Mesh, batch_size: int, *shape: int) -> jax.ShapeDtypeStruct:
    """The shape of integers for each row of a batch: one call, one pass."""
    sharding = NamedSharding(mesh, PartitionSpec(None, None, AXES))
    return jax.ShapeDtypeStruct(
        (1, 1, batch_size, *shape), jnp.int32, sharding=sharding
    )


def lower_trm(config: TrainTRM, mesh: Mesh) -> Lowered:
    """The train step of 9x9 Sudoku."""
    size, step_config = config.batch_size, make_step_config(config, config.accumulation)
    optimizer = train_trm.make_optimizer(config, total=10**6)
    objective = TRMObjective(config.act, SEQ)

    def build() -> tuple[TRM, Array]:
        key = jax.random.key(config.seed)
        model = build_trm(config.model, vocab=VOCAB, seq=SEQ, kernel="xla", key=key)
        return model, jnp.zeros((1, config.model.puzzle_dim))

    init_carry = lambda model: objective.init_carry(step_config.cast(model), size)
    init = make_init(build, init_carry, optimizer.tx, ema=True)
    batch = Puzzle(rows(mesh, size, SEQ), rows(mesh, size, SEQ), rows(mesh, size))
    return lower(objective, optimizer, mesh, step_config, init, batch)


def lower_gpt(config: TrainGPT, mesh: Mesh, kernel: Kernel) -> Lowered:
    """The train step of a GPT on GPT-2's tokens."""
    local = config.batch_size // mesh.size
    step_config = make_step_config(config, even_parts(local, config.microbatch_size))
    optimizer, shape = train_gpt.make_optimizer(config), config.model

    def build() -> tuple[GPT, tuple[()]]:
        key = jax.random.key(config.seed)
        return build_gpt(shape, tokens=TOKENS, kernel=kernel, key=key), ()

    ema = config.optim.ema > 0
    init = make_init(build, lambda model: (), optimizer.tx, ema=ema)
    text = rows(mesh, config.batch_size, shape.block_size)
    objective = GPTObjective(shape.loss_chunk)
    return lower(objective, optimizer, mesh, step_config, init, Tokens(text, text))


def lower(
    objective: Objective,
    optimizer: Any,
    mesh: Mesh,
    step_config: StepConfig,
    init: Callable[[], TrainState],
    batch: Any,
) -> Lowered:
    """The train step of any objective."""
    state = abstract_state(init, mesh)
    step = make_train_step(
        objective, optimizer, mesh, step_config, state, compiled=False
    )
    return jax.jit(step, donate_argnums=0).lower(state, batch), state


def lower_step(config: TrainTRM | TrainGPT, mesh: Mesh, kernel: str) -> Lowered:
    """The train step of a run; a GPT's with the kernel of this name."""
    if isinstance(config, TrainTRM):
        return lower_trm(config, mesh)
    return lower_gpt(config, mesh, kernel)
