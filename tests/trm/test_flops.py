"""Operations of a TRM: by hand, and by XLA's own count."""

from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from configs import ACTConfig, TRMConfig
from data.puzzles.dataset import Puzzle
from train.presets import TRM_PRESETS
from trm.act import init_carry, refill
from trm.build import build_trm
from trm.flops import network_flops, step_flops
from trm.model import TRM
from trm.objective import supervision_loss

PAPER = TRM_PRESETS["sudoku-attention"][1].model


def test_the_paper_by_hand() -> None:
    """Blocks of D 512 on 97 and 916 positions, in operations a token.

    qkv 1,572,864, out 524,288, gate and up 3,145,728, down 1,572,864, and scores and
    values 2,048 a position. Positions of the token MLP: 97 to 2 x 512 to 97.
    """
    linear = 1_572_864 + 524_288 + 3_145_728 + 1_572_864
    for length in (97, 916):
        block = length * (linear + 2048 * length)
        assert network_flops(PAPER, 2, length) == 2 * block
    tokens = 512 * (2 * 97 * 1024 + 2 * 512 * 97)
    mlp = network_flops(replace(PAPER, mixer="mlp", positions="none"), 2, 97)
    assert mlp == 2 * (tokens + 97 * (3_145_728 + 1_572_864))


@pytest.mark.parametrize(
    ("preset", "seq", "vocab", "billions"),
    [
        ("sudoku-attention", 81, 11, 47.63),
        ("sudoku", 81, 11, 42.72),
        ("maze", 900, 6, 398.1),
        ("arc1", 900, 12, 398.1),
    ],
)
def test_steps_of_the_paper(preset: str, seq: int, vocab: int, billions: float) -> None:
    """Networks alone: 21 calls (15), of which 7 (5) are differentiated."""
    config = TRM_PRESETS[preset][1]
    found = step_flops(config.model, config.act, vocab=vocab, seq=seq)
    assert found is not None
    heads = 3 * 2 * 512 * (vocab * seq + 2)
    assert found - heads == pytest.approx(billions * 1e9, rel=2e-4)


SMALL = TRMConfig(dim=256, heads=4, prefix=2, puzzle_dim=256, H_cycles=1, L_cycles=2)


HRM = replace(SMALL, variant="hrm", layers=1, H_layers=2, L_cycles=3)
PLAIN = ACTConfig(exploration=0.0)


@pytest.mark.parametrize(
    ("config", "act"),
    [
        (SMALL, PLAIN),
        (replace(SMALL, mixer="attention", positions="rope"), PLAIN),
        (HRM, replace(PLAIN, halt="compare")),
        (HRM, replace(PLAIN, halt="compare", continue_loss=True)),
        (replace(SMALL, variant="transformer", mixer="attention"), PLAIN),
        (replace(SMALL, variant="single_z", H_cycles=2, layers=1), PLAIN),
        (replace(SMALL, mixer="units", inner_multiple=32), PLAIN),
    ],
    ids=["mlp", "attention", "hrm", "continue", "transformer", "two-cycles", "units"],
)
def test_steps_as_xla_counts_them(config: TRMConfig, act: ACTConfig) -> None:
    """Where no loop is left in the program, of which it would count one turn."""
    seq, vocab, batch = 36, 8, 4
    model = eqx.filter_eval_shape(
        build_trm, config, vocab=vocab, seq=seq, key=jax.random.key(0)
    )

    def loss(model: TRM, rows: jax.Array, puzzle: Puzzle) -> jax.Array:
        carry = refill(model, init_carry(model, batch, seq), puzzle)
        keys = jax.random.split(jax.random.key(0), batch)
        return supervision_loss(model, rows, carry, keys, config=act)[0]

    shape = partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    puzzle = Puzzle(shape((batch, seq)), shape((batch, seq)), shape((batch,)))
    rows = jax.ShapeDtypeStruct((batch, config.puzzle_dim), jnp.float32)
    program: Any = jax.jit(jax.grad(loss, (0, 1))).lower(model, rows, puzzle).compile()
    assert " while(" not in program.as_text()
    counted = program.cost_analysis()["flops"] / batch
    assert step_flops(config, act, vocab=vocab, seq=seq) == pytest.approx(
        counted, rel=0.03
    )


@pytest.mark.parametrize("name", ["variant", "mixer"])
def test_what_is_ones_own_is_not_counted(name: str) -> None:
    config = replace(SMALL)
    object.__setattr__(config, name, "twice")
    assert step_flops(config, PLAIN, vocab=3, seq=4) is None
