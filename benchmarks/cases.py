"""One case of the TRM step benchmark: sizes, settings, random boards, FLOPs."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from configs import ACTConfig, OptimConfig, TableConfig, TRMConfig
from data.puzzles.dataset import Puzzle
from trm.layers import swiglu_width

SEQ, VOCAB, PREFIX, MAX_STEPS = 81, 11, 16, 16
"""Sudoku 9x9 in the official recipe."""

OPTIM = OptimConfig(warmup=0)
TABLE = TableConfig()
"""The recipe's optimizer at its full rate from the first step."""

ACT = ACTConfig(max_steps=MAX_STEPS, exploration=0.0)
"""Without exploration: its random numbers differ between the two codes."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is timed. Sudoku shapes; one puzzle identifier."""

    mixer: Literal["attention", "mlp"]
    dim: int
    heads: int
    H_cycles: int
    L_cycles: int
    batch_size: int
    precision: Literal["float32", "bfloat16"]

    @property
    def model(self) -> TRMConfig:
        """Our configuration."""
        return TRMConfig(
            mixer=self.mixer,
            positions="rope" if self.mixer == "attention" else "none",
            dim=self.dim,
            heads=self.heads,
            H_cycles=self.H_cycles,
            L_cycles=self.L_cycles,
            prefix=PREFIX,
            puzzle_dim=self.dim,
        )


def boards(case: Case, count: int, seed: int = 0) -> list[Puzzle]:
    """`count` batches of random boards with random answers to all cells."""
    rng = np.random.default_rng(seed)
    shape = (case.batch_size, SEQ)
    ids = np.zeros(case.batch_size, np.int32)
    draw = lambda low: rng.integers(low, VOCAB, shape, np.int32)
    return [Puzzle(draw(1), draw(2), ids) for _ in range(count)]


def step_flops(case: Case) -> float:
    """Floating-point operations of one step of one example.

    Matrix products alone, two operations a multiply-add; a backward pass counts twice
    its forward pass, recomputation never counts.
    """
    config, length = case.model, PREFIX + SEQ
    dim, hidden = config.dim, swiglu_width(config.dim, config.expansion)
    if config.mixer == "attention":
        mixing = length * (8 * dim * dim + 4 * length * dim)
    else:
        mixing = 6 * dim * length * swiglu_width(length, config.expansion)
    application = config.layers * (mixing + length * 6 * dim * hidden)
    return application * (config.H_cycles + 2) * (config.L_cycles + 1)
