"""Every preset takes steps on one device and on several."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from configs import TrainGPT, TrainTRM
from data.puzzles.dataset import Puzzle
from data.text.dataset import Tokens
from tests import tiny
from train.experiment import AbstractExperiment
from train.gpt import GPTExperiment
from train.mesh import global_batch
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.state import init_state
from train.step import make_train_step
from train.trm import TRMExperiment

# Input batches are donated too, but fit no output.
pytestmark = pytest.mark.filterwarnings("ignore:Some donated buffers")

BATCH, CELLS, DIGITS, TOKENS = 16, 16, 6, 11
MESHES = {1: (1, 1), 2: (1, 2), 8: (4, 2)}
QUICK = ("sudoku-eqr",)


def small_trm(config: TrainTRM) -> TrainTRM:
    model = config.model
    return replace(
        config,
        batch_size=BATCH,
        steps_per_call=1,
        model=replace(
            model,
            dim=32,
            heads=2,
            inner_multiple=32,
            layers=1,
            H_cycles=1,
            L_cycles=1,
            prefix=min(model.prefix, 2),
            puzzle_dim=min(model.puzzle_dim, 32),
        ),
        act=replace(config.act, max_steps=2),
    )


def small_gpt(config: TrainGPT) -> TrainGPT:
    return replace(
        config,
        batch_size=BATCH,
        microbatch_size=min(config.microbatch_size, BATCH),
        init_from="scratch",
        model=replace(
            config.model, n_layer=2, n_head=2, n_embd=32, block_size=8, unroll=1
        ),
    )


def experiment(preset: str, devices: int) -> tuple[AbstractExperiment, Any]:
    """Return a small experiment and a batch for it."""
    mesh = tiny.mesh_of(*MESHES[devices])
    rng = np.random.default_rng(0)
    draw = lambda most, *shape: rng.integers(0, most, (BATCH, *shape)).astype(np.int32)
    if preset in TRM_PRESETS:
        config = small_trm(TRM_PRESETS[preset][1])
        sizes = {"vocab": DIGITS, "seq": CELLS, "puzzles": 5}
        batch = Puzzle(draw(DIGITS, CELLS), draw(DIGITS, CELLS), draw(5))
        return TRMExperiment(config, mesh=mesh, sizes=sizes), batch
    config = small_gpt(GPT_PRESETS[preset][1])
    batch = Tokens(draw(TOKENS, 8), draw(TOKENS, 8))
    return GPTExperiment(config, mesh=mesh, sizes={"tokens": TOKENS}), batch


@pytest.mark.parametrize("devices", MESHES)
@pytest.mark.parametrize(
    "preset",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in (*TRM_PRESETS, *GPT_PRESETS)
    ],
)
def test_three_steps_have_finite_losses(preset: str, devices: int) -> None:
    trained, rows = experiment(preset, devices)
    trained.total = 3
    mesh = trained.mesh
    state = init_state(trained.init, mesh)
    step = make_train_step(trained, trained.optimizer, mesh, trained.step_config, state)
    batch = global_batch(mesh, BATCH, 2)(jax.tree.map(lambda a: a[None, None], rows))
    # Like a run: the layout of the first state must remain valid.
    step = step.lower(state, batch).compile()
    for number in range(1, 4):
        state, metrics = step(state, batch)
        assert int(state.step) == number
        assert all(np.isfinite(total) for total, _ in jax.device_get(metrics).values())
