"""Our train step as an arm of a benchmark, whatever the model."""

import time
from collections.abc import Iterable
from itertools import cycle
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from configs import MeshConfig
from train.gradients import StepConfig
from train.mesh import global_batch, make_mesh
from train.objective import Objective
from train.state import TrainState, state_shardings
from train.step import Optimizer, make_train_step


class OurArm:
    """The step of `train/step.py` on one device."""

    name = "ours"

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        step_config: StepConfig,
        state: TrainState,
        batches: Iterable[PyTree],
    ):
        """Compile nothing yet; `batches` are of NumPy arrays, and come in turns."""
        mesh = make_mesh(MeshConfig(data=1))
        self.state = jax.device_put(state, state_shardings(state, mesh))
        self.run = make_train_step(objective, optimizer, mesh, step_config, self.state)
        self.batches = cycle(_placed(batches, mesh, step_config.batch_size))
        self.metrics: Any = None

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

    def first_moment(self) -> Any:
        """The optimizer's average gradient, a tree like the model.

        After one step it is the gradient times `1 - beta1`.
        """
        return next(s.mu for s in self.state.opt_state if hasattr(s, "mu"))


def _placed(batches: Iterable[PyTree], mesh: Mesh, batch_size: int) -> list[PyTree]:
    """Batches on the device, one pass of one update each."""
    place = global_batch(mesh, batch_size, 2)
    return [place(jax.tree.map(lambda a: a[None, None], batch)) for batch in batches]
