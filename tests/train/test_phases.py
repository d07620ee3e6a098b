"""Runs with schedules of depth and of batch size."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import (
    ACTConfig,
    EvalConfig,
    GPTConfig,
    MeshConfig,
    OptimConfig,
    RunConfig,
    TrainGPT,
    TrainTRM,
    TRMConfig,
    UserError,
)
from data.text.dataset import Tokens
from gpt.model import build_gpt
from tests import tiny
from tests.runs import metrics, quick
from tests.tiny import assert_equal
from train.gpt import GPTExperiment
from train.presets import TRM_PRESETS
from train.programs import enter
from train.state import new_state
from train.trm import TRMExperiment, main
from trm.act import init_carry, refill
from trm.objective import supervision_loss

# Warning filters are shared with the thread that saves.
pytestmark = pytest.mark.filterwarnings("ignore:Some donated buffers")

CGAR = "0:1x2,30%:2x4,60%:3x6"


def config(puzzles: Path, **changes: Any) -> TrainTRM:
    """Return a run of 20 steps with H_cycles 2."""
    model = TRM_PRESETS["quickstart"][1].model
    base = quick(
        puzzles,
        model=replace(model, dim=16, puzzle_dim=16, layers=1, H_cycles=2),
        act=ACTConfig(max_steps=3),
        eval=EvalConfig(epochs=4.0, batch_size=8),
        run=RunConfig(log_every=1, save_every=7, keep_last=99, compilation_cache=None),
    )
    return replace(base, **changes)


# -- schedules -------------------------------------------------------------------------


def test_depths_of_cgar() -> None:
    """30, 30 and 40 percent of the steps, rounded up."""
    depths = TrainTRM(depth_schedule=CGAR).depths(1000)
    scheduled = [depths.at(step) for step in range(1000)]
    assert scheduled == [(1, 2)] * 300 + [(2, 4)] * 300 + [(3, 6)] * 400
    assert TrainTRM(depth_schedule=CGAR).depths(7).firsts == (0, 3, 5)


def test_without_a_schedule_depth_is_the_models() -> None:
    assert TrainTRM().depths(10).values == ((3, 6),)
    late = TrainTRM(depth_schedule="4:1x2").depths(10)
    assert [late.at(step) for step in (0, 3, 4, 9)] == [(3, 6), (3, 6), (1, 2), (1, 2)]


def test_phases_begin_with_a_dispatch() -> None:
    config = TrainTRM(depth_schedule="5:1x2,30%:2x4", steps_per_call=4)
    assert config.depths(40).firsts == (0, 8, 12)


@pytest.mark.parametrize(
    ("schedule", "value"),
    [
        ("0:1x2;9:3x6", "0:1x2;9:3x6"),
        ("0:1x2,", "``"),
        ("-1:1x2", "-1:1x2"),
        ("0:0x2", "`H_cycles`"),
        ("0:1x0", "`L_cycles`"),
    ],
)
def test_bad_schedules_of_depth(schedule: str, value: str) -> None:
    with pytest.raises(UserError, match=value):
        TrainTRM(depth_schedule=schedule)


def test_steps_must_ascend() -> None:
    """This depends on the length of the run."""
    config = TrainTRM(depth_schedule="50:1x2,10%:2x4")
    config.depths(1000)
    with pytest.raises(UserError, match="50, 10"):
        config.depths(100)


def test_a_model_without_cycles_has_no_depths() -> None:
    baseline = TRM_PRESETS["sudoku-transformer"][1]
    with pytest.raises(UserError, match="H_cycles=2"):
        replace(baseline, depth_schedule="0:2x2")


# -- a shallow step --------------------------------------------------------------------


SLOW = pytest.mark.slow
RELATIVES = ("single_z", "hier6", "hrm", "eqr")
VARIANTS = ["trm", *(pytest.param(name, marks=SLOW) for name in RELATIVES)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_shallow_step_is_that_of_a_shallow_model(puzzles: Path, variant: Any) -> None:
    """Equal bit for bit in loss, gradients and carry, with the deep model's weights."""
    model = replace(config(puzzles).model, variant=variant, H_cycles=3, L_cycles=3)
    act = ACTConfig(max_steps=3)
    if variant == "hrm":
        act = replace(act, halt="compare", continue_loss=True)
    made = config(puzzles, model=model, act=act, depth_schedule="5:2x1")
    first, second = TRMExperiment(made).phases()
    assert (first.end, second.first) == (5, 5)
    deep = outcome(first.experiment.loss, model)
    shallow = outcome(second.experiment.loss, model)
    plain = TRMExperiment(replace(made, depth_schedule="")).loss
    assert_equal(deep, outcome(plain, model))
    assert_equal(shallow, outcome(plain, made.model_at((2, 1))))
    assert float(deep[0]) != float(shallow[0]), "depth matters"


def outcome(loss: Callable[..., Any], model: TRMConfig) -> Any:
    """Return the loss, the gradients' leaves and the next carry of one step."""
    built = tiny.build_trm(model, vocab=6, seq=16, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    boards = jnp.asarray(rng.integers(1, 6, (4, 16)), jnp.int32)
    rows = jnp.zeros((4, model.puzzle_dim))
    puzzle = tiny.Puzzle(boards, boards[:, ::-1], jnp.zeros(4, jnp.int32))
    carry = refill(built, init_carry(built, 4, 16), puzzle)
    keys = jax.random.split(jax.random.key(1), 4)
    with_aux = partial(loss, carry=carry, keys=keys)
    (value, aux), grads = jax.jit(jax.value_and_grad(with_aux, has_aux=True))(
        built, rows
    )
    return value, jax.tree.leaves(grads), aux[1]


# -- runs ------------------------------------------------------------------------------


def run(config: TrainTRM, folder: Path, **changes: Any) -> list[dict]:
    assert main("quickstart", replace(config, run_dir=str(folder), **changes)) == 0
    return metrics(folder)


def stopped_at(folder: Path, step: int, out: Path) -> Path:
    """Copy a run, without the checkpoints after `step`."""
    shutil.copytree(folder, out)
    for checkpoint in (out / "checkpoints").iterdir():
        if int(checkpoint.name) > step:
            shutil.rmtree(checkpoint)
    return out


@pytest.mark.slow
def test_a_run_of_several_depths(
    puzzles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is traced once; the evaluation has the configured one; resuming is exact."""
    traced: list[int] = []

    def recorded(model: Any, *args: Any, **options: Any) -> Any:
        traced.append(model.cycles)
        return supervision_loss(model, *args, **options)

    monkeypatch.setattr("train.trm.supervision_loss", recorded)
    made = config(puzzles, depth_schedule="0:1x1,7:2x2,60%:1x2")
    lines = run(made, tmp_path / "whole")
    assert traced == [1, 2, 1]
    depths = [(x["H_cycles"], x["L_cycles"]) for x in lines if x["split"] == "train"]
    assert depths == [(1, 1)] * 7 + [(2, 2)] * 5 + [(1, 2)] * 8

    stopped = stopped_at(tmp_path / "whole", 7, tmp_path / "stopped")
    assert run(made, stopped) == lines
    assert traced[3:] == [2, 1]

    run(
        replace(made, depth_schedule="", run=replace(made.run, eval_only=True)), stopped
    )
    (line,) = (stopped / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line)["lm_loss"] == lines[-1]["lm_loss"]


# -- loops of a GPT --------------------------------------------------------------------

LOOPED = GPTConfig(n_layer=3, n_head=2, n_embd=16, block_size=8, loops="1-2x2")


def test_loops_begin_after_a_share_of_the_run() -> None:
    made = TrainGPT(model=LOOPED, loops_from=0.35, batch_schedule="20:960")
    phases = [
        (first, part.loops_from, part.batch_size, values["blocks"])
        for first, part, values in made.phases(100)
    ]
    assert phases == [(0, 1.0, 480, 3), (20, 1.0, 960, 3), (35, 0.0, 960, 5)]
    by_fours = replace(made, batch_schedule="", steps_per_call=4, max_iters=100)
    assert [first for first, _, _ in by_fours.phases(100)] == [0, 36]
    ((first, always, values),) = TrainGPT(model=LOOPED).phases(100)
    assert (first, always.loops_from, values) == (0, 0.0, {})
    with pytest.raises(UserError, match=r"needs `model\.loops`"):
        TrainGPT(loops_from=0.5)
    with pytest.raises(UserError, match="loops_from"):
        TrainGPT(model=LOOPED, loops_from=1.5)


def test_a_step_without_loops_is_that_of_a_model_without() -> None:
    """Bit for bit, with the same weights; and its operations are fewer."""
    made = TrainGPT(model=LOOPED, loops_from=0.5, max_iters=10, batch_size=4)
    whole = GPTExperiment(made, mesh=tiny.mesh_of(1, 1), sizes={"tokens": 11})
    before, after = whole.phases()
    assert (before.end, after.first) == (5, 5)
    texts = np.random.default_rng(0).integers(0, 11, (4, 9), np.int32)
    batch = Tokens(jnp.asarray(texts[:, :-1]), jnp.asarray(texts[:, 1:]))
    looped = build_gpt(LOOPED, tokens=11, key=jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 4)
    plain = build_gpt(replace(LOOPED, loops=""), tokens=11, key=jax.random.key(0))

    def outcome(experiment: Any, model: Any) -> Any:
        loss = lambda model: experiment.loss(model, (), batch, keys)[0]
        return jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(model))

    bare = GPTExperiment(
        replace(made, model=replace(LOOPED, loops=""), loops_from=0.0),
        mesh=whole.mesh,
        sizes=whole.sizes,
    )
    assert_equal(outcome(before.experiment, looped), outcome(bare, plain))
    always = GPTExperiment(
        replace(made, loops_from=0.0), mesh=whole.mesh, sizes=whole.sizes
    )
    deep = outcome(after.experiment, looped)
    assert_equal(deep, outcome(always, looped))
    assert float(deep[0]) != float(outcome(bare, plain)[0])
    assert before.experiment.flops == bare.flops < after.experiment.flops


# -- batches ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TrainTRM, TrainGPT])
def test_bad_schedules_of_batches(kind: Any) -> None:
    assert kind(batch_schedule="20:96").batches.values == (kind().batch_size, 96)
    assert kind().batches.values == (kind().batch_size,)
    for schedule, value in (
        ("0:8;4:16", "0:8;4:16"),
        ("10%:16", "10%:16"),
        ("0:0", "`batch_schedule`"),
        ("9:8,4:16", "9, 4"),
    ):
        with pytest.raises(UserError, match=value):
            kind(batch_schedule=schedule)


def test_rates_of_other_batches() -> None:
    optim = OptimConfig(lr=0.5)
    for rule, lr in (("none", 0.5), ("sqrt", 1.0), ("linear", 2.0)):
        made = TrainTRM(
            batch_size=64, batch_lr=rule, batch_schedule="3:256", optim=optim
        )
        (_, plain, _), (first, other, values) = made.phases(10)
        assert (plain.optim.lr, other.optim.lr, first) == (0.5, lr, 3)
        assert values == {"batch_size": 256}


def test_every_batch_must_fit(puzzles: Path) -> None:
    made = config(puzzles, batch_schedule="4:20", mesh=MeshConfig(data=8))
    with pytest.raises(UserError, match="8 devices"):
        TRMExperiment(made).check()
    with pytest.raises(UserError, match="accumulation"):
        config(puzzles, batch_schedule="4:18", accumulation=4)


def test_rows_are_added_and_dropped(puzzles: Path) -> None:
    """New rows have halted, the last rows are dropped, the others do not change."""
    made = config(puzzles, batch_schedule="0:4,1:6,2:2")
    _, grown, shrunk = (phase.experiment for phase in TRMExperiment(made).phases())
    built = tiny.build_trm(made.model, vocab=6, seq=16, key=jax.random.key(0))
    carry = jax.tree.map(lambda a: jnp.full_like(a, 1), init_carry(built, 4, 16))
    carry = refill(built, carry, carry.puzzle)
    state = new_state(built, jnp.zeros((1, 16)), carry, optax.sgd(0.1), ema=False)
    more = enter(grown, state).carry
    assert more.halted.tolist() == [False] * 4 + [True] * 2
    assert_equal(jax.tree.map(lambda a: a[:4], more), carry)
    fewer = enter(shrunk, replace(state, carry=more)).carry
    assert_equal(fewer, jax.tree.map(lambda a: a[:2], carry))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_a_run_of_several_batches(
    puzzles: Path, tmp_path: Path, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch size is traced once, and resuming is exact around every change."""
    traced: list[int] = []

    def recorded(model: Any, rows: Any, carry: Any, *args: Any, **options: Any) -> Any:
        traced.append(len(carry.steps))
        return supervision_loss(model, rows, carry, *args, **options)

    monkeypatch.setattr("train.trm.supervision_loss", recorded)
    made = config(
        puzzles,
        batch_schedule="4:16,8:8",
        batch_lr="linear",
        mesh=MeshConfig(data=devices),
    )
    made = replace(made, run=replace(made.run, save_every=2))
    lines = run(made, tmp_path / "whole")
    assert traced == [8 // devices, 16 // devices]
    train = [line for line in lines if line["split"] == "train"]
    assert [line["batch_size"] for line in train] == [8] * 4 + [16] * 4 + [8] * 8
    rates = [line["lr"] / made.optim.lr * made.optim.warmup for line in train]
    scales = [1] * 4 + [2] * 4 + [1] * 8
    expected = [scale * (step + 1) for step, scale in enumerate(scales)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    for step in (4,) if devices == 1 else (2, 4, 6, 8):
        folder = stopped_at(tmp_path / "whole", step, tmp_path / str(step))
        assert run(made, folder) == lines
