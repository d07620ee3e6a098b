"""Golden cases of nanoGPT, and matching objects of this code.

Each case is `golden/<name>.npz` with `golden/<name>.json`: a tiny configuration run
through nanoGPT on a CPU.
"""

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp

from configs import GPTConfig, OptimConfig, TrainGPT
from data.text.dataset import Tokens
from gpt.model import GPT, build_gpt
from gpt.weights import from_named
from tests.golden import Stored
from train.experiment import StepConfig
from train.gpt import GPTExperiment
from train.optim import Optimizer, make_tx
from train.state import TrainState, new_state

CASES = ("gpt", "gpt_no_bias")


@dataclass(frozen=True)
class GPTGolden(Stored):
    unroll: int = 1
    remat: bool = False
    chunk: int = 10**6

    @cached_property
    def config(self) -> GPTConfig:
        names = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size", "bias")
        options = {name: self.options[name] for name in names}
        return GPTConfig(
            **options, unroll=self.unroll, remat=self.remat, loss_chunk=self.chunk
        )

    @cached_property
    def optim(self) -> OptimConfig:
        o = self.options["optimizer"]
        return OptimConfig(
            name="adamw",
            lr=o["lr"],
            warmup=0,
            weight_decay=o["weight_decay"],
            decay="matrices",
            beta1=o["beta1"],
            beta2=o["beta2"],
            eps=o["eps"],
            clip=o["grad_clip"],
            ema=0.0,
        )

    @property
    def objective(self) -> GPTExperiment:
        return GPTExperiment(TrainGPT(model=self.config), sizes={})

    @property
    def step_config(self) -> StepConfig:
        return StepConfig(batch_size=3, precision="float32", seed=0)

    def model(self, prefix: str = "weights") -> GPT:
        fresh = lambda: build_gpt(
            self.config, tokens=self.options["vocab_size"], key=jax.random.key(0)
        )
        return from_named(self.tree(prefix), jax.eval_shape(fresh), "nanogpt")

    def optimizer(self) -> Optimizer:
        constant = lambda count: jnp.asarray(self.optim.lr, jnp.float32)
        return Optimizer(tx=make_tx(self.optim, constant), schedule=constant, ema=0.0)

    def state(self) -> TrainState:
        return new_state(self.model(), (), (), self.optimizer().tx, ema=False)

    def batch(self, step: int) -> Tokens:
        x, y = (jnp.asarray(self.arrays[f"step{step}/{name}"]) for name in "xy")
        return Tokens(x, y)
