"""Our GPT train step as an arm of the benchmark."""

from collections.abc import Mapping

import jax
import numpy as np

from benchmarks.gpt_step_case import Case, texts
from benchmarks.ours import OurArm
from configs import TrainGPT
from gpt.build import build_gpt
from gpt.model import GPT, flops_per_token
from gpt.objective import GPTObjective
from gpt.weights import from_named, to_named
from train.devices import gpt_kernel
from train.gpt import make_optimizer
from train.gradients import StepConfig
from train.state import make_init


def build(case: Case) -> GPT:
    """Our model with fresh weights."""
    kernel = gpt_kernel(case.model, case.precision)
    key = jax.random.key(0)
    return build_gpt(case.model, tokens=case.tokens, kernel=kernel, key=key)


def step_flops(case: Case) -> int:
    """Floating-point operations of one step, as nanoGPT counts them."""
    tokens = case.batch_size * case.model.block_size
    return tokens * flops_per_token(build(case))


class OurStep(OurArm):
    """The step of `train/gpt.py` on one device."""

    def __init__(
        self, case: Case, weights: Mapping[str, np.ndarray] | None, batches: int
    ):
        """Build the state; `weights` are nanoGPT's, None for fresh ones."""
        self.case = case
        optimizer = make_optimizer(TrainGPT(optim=case.optim))
        step_config = StepConfig(
            batch_size=case.batch_size, precision=case.precision, seed=0
        )

        def first() -> tuple[GPT, tuple[()]]:
            if weights is None:
                return build(case), ()
            like = jax.eval_shape(lambda: build(case))
            return from_named(weights, like, "nanogpt"), ()

        state = make_init(first, lambda model: (), optimizer.tx, ema=False)()
        objective = GPTObjective(case.model.loss_chunk)
        super().__init__(objective, optimizer, step_config, state, texts(case, batches))

    def outcome(self) -> dict[str, np.ndarray]:
        """After the first step: loss, gradients' norm, gradients and weights, named."""
        scale = 1.0 / (1.0 - self.case.optim.beta1)
        gradients = to_named(self.first_moment(), "nanogpt")
        weights = to_named(self.state.model, "nanogpt")
        names = [name for name in weights if name != "lm_head.weight"]  # it is tied
        total, count = self.metrics["loss"]
        return {
            "loss": np.asarray(total / count),
            "norm": np.asarray(self.metrics["grad_norm"][0]),
            **{f"gradient {name}": scale * gradients[name] for name in names},
            **{f"weight {name}": weights[name] for name in names},
        }
