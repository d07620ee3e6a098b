"""Golden cases of the official code, and matching objects of this code.

Each case is `golden/<name>.npz` with `golden/<name>.json`: a tiny configuration run
through the official PyTorch code (commit e7b6871) on a CPU.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import ACTConfig, OptimConfig, TableConfig, TrainTRM, TRMConfig
from data.puzzles.dataset import Puzzle
from train.experiment import StepConfig
from train.optim import Optimizer
from train.state import TrainState, new_state
from train.trm import TRMExperiment
from trm.act import init_carry
from trm.build import build_trm
from trm.model import TRM, cast
from trm.official.names import load_official

FOLDER = Path(__file__).parent / "golden"
CASES = (
    "trm_attention",
    "trm_mlp",
    "trm_learned_positions",
    "trm_singlez",
    "trm_hier6",
    "hrm",
    "transformer",
)
VARIANTS = {"trm_singlez": "single_z", "trm_hier6": "hier6"}


@dataclass(frozen=True)
class Stored:
    """Arrays and options of a case."""

    name: str

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(FOLDER / f"{self.name}.npz") as stored:
            return {name: stored[name] for name in stored.files}

    @cached_property
    def options(self) -> dict[str, Any]:
        return json.loads((FOLDER / f"{self.name}.json").read_text())

    def tree(self, prefix: str) -> dict[str, np.ndarray]:
        prefix += "/"
        return {
            name.removeprefix(prefix): array
            for name, array in self.arrays.items()
            if name.startswith(prefix)
        }


@dataclass(frozen=True)
class Golden(Stored):
    @cached_property
    def config(self) -> TRMConfig:
        o = self.options
        return TRMConfig(
            variant=VARIANTS.get(o["arch"], o["arch"]),
            mixer="mlp" if o["mlp_t"] else "attention",
            positions=o["pos_encodings"],
            dim=o["hidden_size"],
            heads=o["num_heads"],
            expansion=float(o["expansion"]),
            layers=o["L_layers"],
            H_cycles=o["H_cycles"],
            L_cycles=o["L_cycles"],
            prefix=o["puzzle_emb_len"],
            puzzle_dim=o["puzzle_emb_ndim"],
        )

    @cached_property
    def act(self) -> ACTConfig:
        compares = self.options["arch"] in ("hrm", "transformer")
        return ACTConfig(
            max_steps=self.options["halt_max_steps"],
            exploration=self.options["halt_exploration_prob"],
            halt="compare" if compares else "positive",
            continue_loss=self.options["arch"] == "hrm",
            loss="stablemax",
        )

    @cached_property
    def optim(self) -> OptimConfig:
        o = self.options["optimizer"]
        return OptimConfig(
            lr=o["lr"],
            warmup=o["warmup_steps"],
            weight_decay=o["weight_decay"],
            beta1=o["beta1"],
            beta2=o["beta2"],
            ema=o["ema_rate"],
        )

    @property
    def batch_size(self) -> int:
        return self.options["batch_size"]

    @cached_property
    def objective(self) -> TRMExperiment:
        sizes = {"seq": self.options["seq_len"]}
        return TRMExperiment(TrainTRM(act=self.act), sizes=sizes)

    @cached_property
    def step_config(self) -> StepConfig:
        return StepConfig(
            batch_size=self.batch_size,
            precision=self.options["forward_dtype"],
            seed=0,
        )

    def model(self, prefix: str = "weights") -> TRM:
        model = jax.eval_shape(
            lambda: build_trm(
                self.config,
                vocab=self.options["vocab_size"],
                seq=self.options["seq_len"],
                key=jax.random.key(0),
            )
        )
        weights = {**self.tree("weights"), **self.tree(prefix)}
        return load_official(weights, model, self.config)

    def optimizer(self) -> Optimizer:
        o = self.options["optimizer"]
        table = TableConfig(
            lr=o["puzzle_emb_lr"], weight_decay=o["puzzle_emb_weight_decay"]
        )
        config = TrainTRM(optim=self.optim, table=table)
        return TRMExperiment(config, sizes={}).make_optimizer(10**6)

    def state(self) -> TrainState:
        table = jnp.asarray(self.arrays["weights/puzzle_emb.weights"])
        model = self.model()
        cells = self.options["seq_len"]
        carry = init_carry(cast(model, self.step_config.dtype), self.batch_size, cells)
        return new_state(model, table, carry, self.optimizer().tx, ema=True)

    def batch(self, prefix: str) -> Puzzle:
        return Puzzle(
            *(
                jnp.asarray(self.arrays[f"{prefix}/{name}"], jnp.int32)
                for name in ("inputs", "labels", "puzzle_identifiers")
            )
        )
