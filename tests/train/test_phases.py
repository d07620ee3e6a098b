"""Runs whose steps change on the way: in depth."""

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
import pytest

from configs import (
    ACTConfig,
    EvalConfig,
    GeneratedSudoku,
    MeshConfig,
    PuzzleDataConfig,
    RunConfig,
    TrainTRM,
    TRMConfig,
    UserError,
)
from data.build import prepare
from tests import tiny
from tests.runs import metrics
from tests.tiny import assert_equal
from train.presets import TRM_PRESETS
from train.trm import main, make_job
from trm.act import init_carry, refill
from trm.objective import supervision_loss

CGAR = "0:1x2,30%:2x4,60%:3x6"


@pytest.fixture(scope="module")
def puzzles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "sudoku-4x4"
    prepare(GeneratedSudoku(size=4, train=40, test=8), out)
    return out


def config(puzzles: Path, **changes: Any) -> TrainTRM:
    """20 steps of 8 puzzles, with H 2 and L 2, on one device."""
    preset = TRM_PRESETS["quickstart"][1]
    base = replace(
        preset,
        batch_size=8,
        epochs=4.0,
        model=replace(preset.model, dim=16, puzzle_dim=16, layers=1, H_cycles=2),
        act=ACTConfig(max_steps=3),
        data=PuzzleDataConfig(paths=(str(puzzles),), build=None, block=4),
        mesh=MeshConfig(data=1),
        eval=EvalConfig(epochs=4.0, batch_size=8),
        run=RunConfig(log_every=1, save_every=7, keep_last=99, compilation_cache=None),
    )
    return replace(base, **changes)


# -- schedules -------------------------------------------------------------------------


def test_depths_of_cgar() -> None:
    """30, 30 and 40 percent of the steps; shares are rounded up."""
    depths = TrainTRM(depth_schedule=CGAR).depths(1000)
    found = [depths.at(step) for step in range(1000)]
    assert found == [(1, 2)] * 300 + [(2, 4)] * 300 + [(3, 6)] * 400
    assert TrainTRM(depth_schedule=CGAR).depths(7).firsts == (0, 3, 5)


def test_without_a_schedule_depth_is_the_models() -> None:
    assert TrainTRM().depths(10).values == ((3, 6),)
    late = TrainTRM(depth_schedule="4:1x2").depths(10)
    assert [late.at(step) for step in (0, 3, 4, 9)] == [(3, 6), (3, 6), (1, 2), (1, 2)]


def test_phases_begin_with_a_dispatch() -> None:
    config = TrainTRM(depth_schedule="5:1x2,30%:2x4", steps_per_call=4)
    assert config.depths(40).firsts == (0, 8, 12)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("0:1x2;9:3x6", "like `0:1x2,30%:2x4`: got `0:1x2;9:3x6`"),
        ("0:1x2,", "got ``"),
        ("-1:1x2", "got `-1:1x2`"),
        ("0:0x2", "`H_cycles` must be at least 1: got 0"),
        ("0:1x0", "`L_cycles` must be at least 1: got 0"),
    ],
)
def test_what_is_no_schedule(schedule: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        TrainTRM(depth_schedule=schedule)
    assert said in str(caught.value)


def test_steps_must_ascend() -> None:
    """Known where the length of the run is known."""
    config = TrainTRM(depth_schedule="50:1x2,10%:2x4")
    config.depths(1000)
    with pytest.raises(UserError, match=r"`depth_schedule` must ascend: got 50, 10"):
        config.depths(100)


def test_a_model_without_cycles_has_no_depths() -> None:
    baseline = TRM_PRESETS["sudoku-transformer"][1]
    with pytest.raises(UserError, match="transformer baseline is one call a step"):
        replace(baseline, depth_schedule="0:2x2")


# -- what a shallow step computes ------------------------------------------------------


SLOW = pytest.mark.slow
RELATIVES = ("single_z", "hier6", "hrm", "eqr")
VARIANTS = ["trm", *(pytest.param(name, marks=SLOW) for name in RELATIVES)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_shallow_step_is_that_of_a_shallow_model(puzzles: Path, variant: Any) -> None:
    """Loss, gradients and carry, bit for bit; the weights are the deep model's."""
    model = replace(config(puzzles).model, variant=variant, H_cycles=3, L_cycles=3)
    act = ACTConfig(max_steps=3)
    if variant == "hrm":
        act = replace(act, halt="compare", continue_loss=True)
    made = config(puzzles, model=model, act=act, depth_schedule="5:2x1")
    phases = make_job("x", made).phases
    deep = outcome(phases.at(4).objective.loss, model)
    shallow = outcome(phases.at(5).objective.loss, model)
    plain = make_job("x", replace(made, depth_schedule="")).objective.loss
    assert_equal(deep, outcome(plain, model))
    assert_equal(shallow, outcome(plain, made.model_at((2, 1))))
    assert float(deep[0]) != float(shallow[0]), "depth matters"


def outcome(loss: Callable[..., Any], model: TRMConfig) -> Any:
    """Loss, gradients' leaves and the next carry of one step."""
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
    """A copy of a run as if it had been killed after it had saved this step."""
    shutil.copytree(folder, out)
    for checkpoint in (out / "checkpoints").iterdir():
        if int(checkpoint.name) > step:
            shutil.rmtree(checkpoint)
    return out


def test_a_run_of_several_depths(
    puzzles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is traced once; evaluated is the configured one; resuming is exact."""
    traced: list[int] = []

    def noted(model: Any, *args: Any, **options: Any) -> Any:
        traced.append(model.cycles)
        return supervision_loss(model, *args, **options)

    monkeypatch.setattr("train.trm.supervision_loss", noted)
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
