"""Our TRM train step as an arm of the benchmark."""

import time
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.trm_case import ACT, OPTIM, SEQ, TABLE, VOCAB, Case, boards
from configs import MeshConfig, TrainTRM
from train.devices import attention_kernel
from train.gradients import Plan
from train.mesh import global_batch, make_mesh
from train.state import TrainState, make_init, state_shardings
from train.step import make_train_step
from train.trm import make_rules
from trm.build import build_trm
from trm.model import TRM
from trm.official import load_official, to_official
from trm.task import TRMTask


class OurStep:
    """The step of `train/step.py` on one device."""

    name = "ours"

    def __init__(
        self, case: Case, weights: Mapping[str, np.ndarray] | None, batches: int
    ):
        """Build the state; `weights` are official, None for fresh ones."""
        self.case = case
        self.task = TRMTask(ACT, SEQ)
        self.rules = make_rules(TrainTRM(optim=OPTIM, table=TABLE), total=10**6)
        self.plan = Plan(batch_size=case.batch_size, precision=case.precision, seed=0)
        self.mesh = make_mesh(MeshConfig(data=1))
        self.state = self._state(weights)
        self.run = make_train_step(
            self.task, self.rules, self.mesh, self.plan, self.state
        )
        place = global_batch(self.mesh, case.batch_size, 2)
        stack = lambda a: a[None, None]
        offered = [place(jax.tree.map(stack, b)) for b in boards(case, batches)]
        self.batches = cycle(offered)
        self.metrics: Any = None

    def _state(self, weights: Mapping[str, np.ndarray] | None) -> TrainState:
        config = self.case.model
        kernel = attention_kernel(config.attention, self.case.precision)

        def build() -> tuple[TRM, Array]:
            model = build_trm(
                config,
                vocab=VOCAB,
                seq=SEQ,
                kernel=kernel,
                key=jax.random.key(0),
            )
            if weights is not None:
                model = load_official(weights, model, config)
            return model, jnp.zeros((1, config.puzzle_dim))

        state = make_init(
            build,
            lambda model: self.task.init_carry(
                self.plan.cast(model), self.case.batch_size
            ),
            self.rules.optimizer,
            ema=True,
        )()
        return jax.device_put(state, state_shardings(state, self.mesh))

    def compile_facts(self) -> dict[str, float]:
        """Seconds to trace, lower and compile the step, and its memory in bytes."""
        batch = next(self.batches)
        start = time.perf_counter()
        lowered = jax.jit(self.run, donate_argnums=0).lower(self.state, batch)
        middle = time.perf_counter()
        compiled = lowered.compile()
        facts = {
            "lower_s": middle - start,
            "compile_s": time.perf_counter() - middle,
        }
        memory = compiled.memory_analysis()
        if memory is not None:
            facts["temp_bytes"] = memory.temp_size_in_bytes
            facts["argument_bytes"] = memory.argument_size_in_bytes
        return facts

    def step(self) -> None:
        """One update."""
        self.state, self.metrics = self.run(self.state, next(self.batches))

    def wait(self) -> None:
        """Until the device is done."""
        jax.block_until_ready((self.state, self.metrics))

    def outcome(self) -> dict[str, np.ndarray]:
        """After the first step: losses, latents, gradients and weights, named."""
        config, state = self.case.model, self.state
        y, z = state.carry.latents
        moments = next(s.mu for s in state.opt_state if hasattr(s, "mu"))
        scale = 1.0 / (1.0 - OPTIM.beta1)
        gradients, model = (
            to_official(moments, config),
            to_official(state.model, config),
        )
        return {
            "lm_loss": np.asarray(self.metrics["lm_loss"][0]),
            "q_halt_loss": np.asarray(self.metrics["q_halt_loss"][0]),
            "z_H": np.asarray(y.astype(jnp.float32)),
            "z_L": np.asarray(z.astype(jnp.float32)),
            "table": np.asarray(state.table),
            **{f"gradient {n}": scale * g for n, g in gradients.items()},
            **{f"weight {n}": w for n, w in model.items() if n in gradients},
        }
