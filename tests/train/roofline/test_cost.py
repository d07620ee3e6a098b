"""Operations counted on the program, against formulas worked out by hand."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from configs import MeshConfig, TrainGPT, TrainTRM
from train.experiment import AbstractExperiment
from train.mesh import make_mesh
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.roofline.cost import flops, loss_flops
from train.roofline.dataless import EXPERIMENTS
from train.roofline.study import trace
from train.trm import TRMExperiment


def count(function: Any, *shapes: tuple[int, ...]) -> int:
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return flops(jax.make_jaxpr(function)(*arrays).jaxpr)


def test_products_loops_and_branches() -> None:
    product = lambda a, b: a @ b
    assert count(product, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert count(jax.vmap(product), (4, 3, 5), (4, 5, 7)) == 4 * 2 * 3 * 5 * 7
    square = lambda a: a @ a
    loop = lambda a: jax.lax.fori_loop(0, 6, lambda _, x: square(x), a)
    assert count(loop, (5, 5)) == 6 * 2 * 5**3
    branch = lambda a: jax.lax.cond(a.sum() > 0, square, lambda x: x, a)
    assert count(branch, (5, 5)) == 2 * 5**3
    # d(x @ x) is two products; computed again, its forward product comes once more.
    loss = lambda a: square(jnp.sin(square(a))).sum()
    assert count(jax.grad(loss), (5, 5)) == 6 * 2 * 5**3
    assert count(jax.grad(jax.checkpoint(loss)), (5, 5)) > 6 * 2 * 5**3


def make(config: TrainTRM | TrainGPT, **sizes: int) -> AbstractExperiment:
    mesh = make_mesh(MeshConfig(data=1))
    experiment = EXPERIMENTS[type(config)](config, mesh=mesh, sizes=sizes)
    experiment.total = 1
    return experiment


def step_flops(experiment: AbstractExperiment) -> int:
    """Return the operations of a whole step, per example."""
    traced, _, _ = trace(experiment)
    return flops(traced.jaxpr.jaxpr) // experiment.config.batch_size


@pytest.mark.parametrize(
    ("preset", "seq", "vocab", "gigaflop"),
    [
        # f (H + 2) (L_cycles + 1), with f of one network: 2 x 97 x (13.63 M / 2 + 4 x
        # 97 x 512) with attention; 2 x (97 x 4.72 M + 6 x 512 x 97 x 512) with a token
        # MLP; attention over 916 positions.
        ("sudoku-attention", 81, 11, 47.63),
        ("sudoku", 81, 11, 42.72),
        ("maze", 900, 6, 398.1),
        ("arc1", 900, 12, 398.1),
    ],
)
def test_a_loss_of_the_paper(
    preset: str, seq: int, vocab: int, gigaflop: float
) -> None:
    experiment = make(TRM_PRESETS[preset][1], seq=seq, vocab=vocab, puzzles=1)
    heads = 3 * 2 * 512 * (vocab * seq + 2)
    assert (loss_flops(experiment) - heads) / 1e9 == pytest.approx(gigaflop, rel=2e-4)


@pytest.mark.parametrize(
    ("preset", "operations"),
    [
        ("sudoku-hrm", 36_654_010_368),  # with a second forward pass for `continue`
        ("sudoku-eqr", 31_216_229_376),
        ("sudoku-transformer", 13_746_625_536),
        ("sudoku-fast", 14_447_926_272),  # at its first depth, 2x3
    ],
)
def test_a_loss_of_each_variant(preset: str, operations: int) -> None:
    """Worked out from the widths."""
    experiment = make(TRM_PRESETS[preset][1], seq=81, vocab=11, puzzles=1)
    assert loss_flops(experiment) == operations


def test_batch_and_slices_do_not_change_the_count() -> None:
    config = replace(TRM_PRESETS["quickstart"][1], batch_size=8)
    whole, sliced = (
        make(replace(config, accumulation=n), seq=36, vocab=8, puzzles=1)
        for n in (1, 4)
    )
    assert step_flops(whole) == step_flops(sliced) == loss_flops(whole)


def test_each_phase_has_a_count_of_its_own() -> None:
    config = replace(TRM_PRESETS["quickstart"][1], depth_schedule="0:1x1,8:1x3")
    whole = make(config, seq=36, vocab=8, puzzles=1)
    assert isinstance(whole, TRMExperiment)
    assert whole.flops == loss_flops(whole)
    whole.total, whole.resize_data = 16, lambda first: None
    experiments: list[Any] = [phase.experiment for phase in whole.phases()]
    short, long = (experiment.flops for experiment in experiments)
    assert long > short == whole.flops


def test_gpt2() -> None:
    """6 N + 12 layers x width x length for a token: 854.8 MFLOP in nanoGPT's count."""
    config = replace(GPT_PRESETS["gpt2"][1], batch_size=2, microbatch_size=2)
    experiment = make(config, tokens=50257)
    for count in (step_flops, loss_flops):
        per_token = count(experiment) / config.model.block_size
        assert per_token / 1e6 == pytest.approx(854.8, rel=0.03)
    remat = replace(config, model=replace(config.model, remat=True))
    assert step_flops(make(remat, tokens=50257)) > 1.1 * step_flops(experiment)
