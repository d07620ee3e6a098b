"""Configurations and random batches to time. Imports neither JAX nor PyTorch."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from benchmarks.machine import Kind, Precision
from configs import GPTConfig, TrainGPT, TrainTRM
from data.puzzles.dataset import Puzzle
from data.text.dataset import Tokens
from train.presets import GPT_PRESETS, TRM_PRESETS

BATCHES = 8
"""Different batches, which come in turns."""

SEQ, VOCAB = 81, 11
"""Sudoku 9x9 in the official format."""


def trm_config(
    *,
    mixer: Literal["attention", "mlp"],
    dim: int,
    batch_size: int,
    precision: Precision,
    **sizes: int,
) -> TrainTRM:
    """Return the paper's recipe for Sudoku at its full rate from the first step.

    Exploration is off, because its random numbers differ between implementations.
    """
    config = TRM_PRESETS["sudoku" if mixer == "mlp" else "sudoku-attention"][1]
    return replace(
        config,
        batch_size=batch_size,
        precision=precision,
        model=replace(config.model, dim=dim, puzzle_dim=dim, **sizes),
        act=replace(config.act, exploration=0.0),
        optim=replace(config.optim, warmup=0),
    )


def boards(batch_size: int) -> list[Puzzle]:
    """Return batches of random boards with random answers to all cells."""
    rng = np.random.default_rng(0)
    ids = np.zeros(batch_size, np.int32)
    draw = lambda low: rng.integers(low, VOCAB, (batch_size, SEQ), np.int32)
    return [Puzzle(draw(1), draw(2), ids) for _ in range(BATCHES)]


ORIGINS = {
    # Preset, different tokens, and the batch on a CPU and on a GPU.
    "char-cpu": ("shakespeare-char-cpu", 65, {"cpu": 12, "gpu": 12}),
    "char": ("shakespeare-char", 65, {"cpu": 8, "gpu": 64}),
    "gpt2": ("gpt2", 50257, {"cpu": 1, "gpu": 12}),
}


def gpt_config(
    name: str, kind: Kind, precision: Precision, batch_size: int, **sizes: int
) -> tuple[TrainGPT, int]:
    """Return a configuration of `ORIGINS` and its number of tokens; 0 keeps its value.

    Dropout is off, because its random numbers differ between implementations. The rate
    is full from the first step.
    """
    preset, tokens, batch_sizes = ORIGINS[name]
    config, batch_size = GPT_PRESETS[preset][1], batch_size or batch_sizes[kind]
    wanted = {field: size for field, size in sizes.items() if size}
    config = replace(
        config,
        batch_size=batch_size,
        microbatch_size=batch_size,
        precision=precision,
        model=replace(config.model, dropout=0.0, **wanted),
        optim=replace(config.optim, warmup=0),
    )
    return config, tokens


def texts(config: TrainGPT, tokens: int) -> list[Tokens]:
    """Return batches of random tokens, with the next tokens as targets."""
    shape = (BATCHES, config.batch_size, config.model.block_size + 1)
    drawn = np.random.default_rng(0).integers(0, tokens, shape, np.int32)
    return [Tokens(batch[:, :-1], batch[:, 1:]) for batch in drawn]


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Generation of `new_tokens` after random prompts, by a preset's model."""

    preset: str
    vocab: int
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    precision: Precision

    @property
    def model(self) -> GPTConfig:
        """Its configuration."""
        return replace(GPT_PRESETS[self.preset][1].model, dropout=0.0)

    def prompt(self) -> np.ndarray:
        """Return random tokens, the same at every call."""
        shape = (self.batch_size, self.prompt_tokens)
        return np.random.default_rng(0).integers(0, self.vocab, shape, np.int32)

    def weight_bytes(self) -> int:
        """Return the bytes of weights that every token reads, but for positions."""
        config = self.model
        matrices = 12 * config.n_layer * config.n_embd**2 + self.vocab * config.n_embd
        return matrices * (4 if self.precision == "float32" else 2)
