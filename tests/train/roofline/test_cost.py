"""Operations counted on the program, against formulas worked out by hand."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from configs import MeshConfig, TrainGPT, TrainTRM
from train.mesh import make_mesh
from train.presets import GPT_PRESETS, TRM_PRESETS
from train.roofline.cost import flops
from train.roofline.dataless import EXPERIMENTS
from train.roofline.study import trace

SUDOKU = {"vocab": 11, "seq": 81, "puzzles": 1}
MAZE = {"vocab": 6, "seq": 900, "puzzles": 1}


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


def step_flops(config: TrainTRM | TrainGPT, sizes: dict[str, int]) -> int:
    """Of one step on one device, per example."""
    mesh = make_mesh(MeshConfig(data=1))
    experiment = EXPERIMENTS[type(config)](config, mesh=mesh, sizes=sizes)
    experiment.total = 1
    traced, _, _ = trace(experiment)
    return flops(traced.jaxpr.jaxpr) // config.batch_size


@pytest.mark.parametrize(
    ("preset", "sizes", "gigaflop"),
    [
        # f (H + 2) (L_cycles + 1), with f of one network: 2 x 97 x (13.63 M / 2 + 4 x
        # 97 x 512) with attention; 2 x (97 x 4.72 M + 6 x 512 x 97 x 512) with a token
        # MLP; attention over 916 positions.
        ("sudoku-attention", SUDOKU, 47.63),
        ("sudoku", SUDOKU, 42.72),
        pytest.param("maze", MAZE, 398.1, marks=pytest.mark.slow),
    ],
)
def test_a_step_of_the_paper(
    preset: str, sizes: dict[str, int], gigaflop: float
) -> None:
    config = replace(TRM_PRESETS[preset][1], batch_size=4)
    assert step_flops(config, sizes) / 1e9 == pytest.approx(gigaflop, rel=0.02)


def test_slices_do_not_change_the_count() -> None:
    config = replace(TRM_PRESETS["quickstart"][1], batch_size=8)
    sizes = {"vocab": 8, "seq": 36, "puzzles": 1}
    whole = step_flops(config, sizes)
    assert step_flops(replace(config, accumulation=4), sizes) == whole


def test_a_step_of_gpt2() -> None:
    """6 N + 12 layers x width x length for a token: 854.8 MFLOP in nanoGPT's count."""
    config = replace(GPT_PRESETS["gpt2"][1], batch_size=2, microbatch_size=2)
    per_token = step_flops(config, {"tokens": 50257}) / config.model.block_size
    assert per_token / 1e6 == pytest.approx(854.8, rel=0.03)
