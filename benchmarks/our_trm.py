"""Our TRM train step as an arm of the benchmark."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.ours import OurArm
from benchmarks.cases import ACT, OPTIM, SEQ, TABLE, VOCAB, Case, boards
from configs import TrainTRM
from train.devices import attention_kernel
from train.gradients import StepConfig
from train.state import make_init
from train.trm import make_optimizer
from trm.build import build_trm
from trm.model import TRM
from trm.objective import TRMObjective
from trm.weights import load_official, to_official


class OurStep(OurArm):
    """The step of `train/trm.py` on one device."""

    def __init__(
        self, case: Case, weights: Mapping[str, np.ndarray] | None, batches: int
    ):
        """Build the state; `weights` are official, None for fresh ones."""
        self.case = case
        objective = TRMObjective(ACT, SEQ)
        optimizer = make_optimizer(TrainTRM(optim=OPTIM, table=TABLE), total=10**6)
        step_config = StepConfig(
            batch_size=case.batch_size, precision=case.precision, seed=0
        )
        carry = lambda model: objective.init_carry(
            step_config.cast(model), case.batch_size
        )
        build = lambda: self._build(weights)
        state = make_init(build, carry, optimizer.tx, ema=True)()
        super().__init__(
            objective, optimizer, step_config, state, boards(case, batches)
        )

    def _build(self, weights: Mapping[str, np.ndarray] | None) -> tuple[TRM, Array]:
        config = self.case.model
        kernel = attention_kernel(config.attention, self.case.precision)
        key = jax.random.key(0)
        model = build_trm(config, vocab=VOCAB, seq=SEQ, kernel=kernel, key=key)
        if weights is not None:
            model = load_official(weights, model, config)
        return model, jnp.zeros((1, config.puzzle_dim))

    def outcome(self) -> dict[str, np.ndarray]:
        """After the first step: losses, latents, gradients and weights, named."""
        config, state = self.case.model, self.state
        y, z = state.carry.latents
        scale = 1.0 / (1.0 - OPTIM.beta1)
        gradients = to_official(self.first_moment(), config)
        model = to_official(state.model, config)
        return {
            "lm_loss": np.asarray(self.metrics["lm_loss"][0]),
            "q_halt_loss": np.asarray(self.metrics["q_halt_loss"][0]),
            "z_H": np.asarray(y.astype(jnp.float32)),
            "z_L": np.asarray(z.astype(jnp.float32)),
            "table": np.asarray(state.table),
            **{f"gradient {n}": scale * g for n, g in gradients.items()},
            **{f"weight {n}": w for n, w in model.items() if n in gradients},
        }
