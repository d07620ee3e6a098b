"""One case of the GPT step benchmark: a preset's model and optimizer, random tokens."""

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.machine import Kind
from benchmarks.settings import Precision
from configs import GPT_PRESETS, GPTConfig, OptimConfig
from data.text.dataset import Tokens


@dataclass(frozen=True)
class Origin:
    """Where a case comes from, and its batch where none is asked for."""

    preset: str
    tokens: int
    gpu_batch: int
    cpu_batch: int


ORIGINS = {
    "char-cpu": Origin("shakespeare-char-cpu", 65, gpu_batch=12, cpu_batch=12),
    "char": Origin("shakespeare-char", 65, gpu_batch=64, cpu_batch=8),
    "gpt2": Origin("gpt2", 50257, gpu_batch=12, cpu_batch=1),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is timed."""

    name: str
    model: GPTConfig
    optim: OptimConfig
    tokens: int
    """Different tokens in the batches."""

    batch_size: int
    precision: Precision


def make_case(
    name: str,
    kind: Kind,
    precision: Precision,
    *,
    batch_size: int,
    block_size: int,
    unroll: int,
) -> Case:
    """A case of `ORIGINS`; a number that is 0 stays as it is there.

    Without dropout, whose random numbers differ between the two codes, and at the full
    rate from the first step.
    """
    origin = ORIGINS[name]
    config = GPT_PRESETS[origin.preset][1]
    changes = {"block_size": block_size, "unroll": unroll}
    wanted = {field: value for field, value in changes.items() if value}
    default = origin.cpu_batch if kind == "cpu" else origin.gpu_batch
    return Case(
        name=name,
        model=replace(config.model, dropout=0.0, **wanted),
        optim=replace(config.optim, warmup=0),
        tokens=origin.tokens,
        batch_size=batch_size or default,
        precision=precision,
    )


def texts(case: Case, count: int, seed: int = 0) -> list[Tokens]:
    """`count` batches of random tokens, each followed by the next."""
    rng = np.random.default_rng(seed)
    shape = (count, case.batch_size, case.model.block_size + 1)
    drawn = rng.integers(0, case.tokens, shape, np.int32)
    return [Tokens(batch[:, :-1], batch[:, 1:]) for batch in drawn]
