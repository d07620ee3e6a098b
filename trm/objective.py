"""What training needs to know of a TRM: the `Task` protocol of `train/objective.py`."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from configs import ACTConfig
from data.puzzles.dataset import IGNORE, Puzzle
from trm.act import Carry, choose, halts, init_carry, refill, solve
from trm.loss import Metrics, Parts, metrics, puzzle_loss
from trm.model import TRM, Prediction
from trm.recursion import Latents


class TRMTask(eqx.Module):
    """Supervision steps of a TRM over batches of puzzles, and their evaluation."""

    act: ACTConfig = eqx.field(static=True)
    seq: int = eqx.field(static=True)
    early_halt: bool = eqx.field(static=True, default=False)

    def init_carry(self, model: TRM, batch: int) -> Carry:
        """Rows that have all halted."""
        return init_carry(model, batch, self.seq)

    def admit(self, model: TRM, carry: Carry, batch: Puzzle) -> Carry:
        """Rows that have halted take the puzzles offered; the rest are dropped."""
        return refill(model, carry, batch)

    def row_ids(self, carry: Carry) -> Int[Array, " batch"]:
        """The rows of the puzzle table that the carried puzzles look up."""
        return carry.puzzle.puzzle_id

    def done(self, carry: Carry) -> Array:
        """Whether every row has halted."""
        return jnp.all(carry.halted)

    def loss(
        self,
        model: TRM,
        rows: Float[Array, "batch width"],
        carry: Carry,
        keys: Key[Array, " batch"],
    ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Carry, Metrics]]:
        """One supervision step: summed loss, rows, the next carry, the metrics.

        Rows that had halted before it stay as they are and count for nothing.

        Args:
            model: in the compute type.
            rows: the puzzle table's rows of `carry.puzzle`.
            carry: admitted.
            keys: one for each row, for exploration.
        """
        x = model.embed(carry.puzzle.inputs, rows)
        latents = model.refine(carry.latents, x)
        prediction = model.predict(latents)
        latents = jax.lax.stop_gradient(latents)

        active = ~carry.halted
        steps = carry.steps + 1
        halted = halts(prediction, steps, keys, self.act)
        stepped = Carry(latents, steps, halted, carry.puzzle)
        q_target = self._continue_target(model, latents, x, steps)
        loss, counted = self._score(stepped, prediction, q_target, active)
        rows_in_all = jnp.array(active.size, jnp.float32)
        return loss, (rows_in_all, choose(active, stepped, carry), counted)

    def evaluate(
        self,
        model: TRM,
        rows: Float[Array, "batch width"],
        carry: Carry,
    ) -> tuple[Metrics, Prediction]:
        """Metrics and predictions after all supervision steps; padding rows excluded.

        Args:
            model: in the compute type.
            rows: the puzzle table's rows of `carry.puzzle`.
            carry: freshly admitted.
        """
        carry, prediction = solve(model, rows, carry, self.act, early=self.early_halt)
        real = jnp.any(carry.puzzle.labels != IGNORE, axis=-1)
        _, counted = self._score(carry, prediction, None, real)
        return counted, prediction

    def _continue_target(
        self,
        model: TRM,
        latents: Latents,
        x: Float[Array, "batch length dim"],
        steps: Int[Array, " batch"],
    ) -> Float[Array, " batch"] | None:
        """What q_continue should be: the best Q of the next step, bootstrapped."""
        if not self.act.continue_loss or self.act.max_steps == 1:
            return None
        following = model.predict(model.refine(latents, x))
        best = jnp.maximum(following.q_halt, following.q_continue)
        value = jnp.where(steps >= self.act.max_steps, following.q_halt, best)
        return jax.lax.stop_gradient(jax.nn.sigmoid(value))

    def _score(
        self,
        carry: Carry,
        prediction: Prediction,
        q_target: Float[Array, " batch"] | None,
        active: Array,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Summed loss and metrics of the active rows, one puzzle at a time."""
        score = jax.vmap(partial(puzzle_loss, kind=self.act.loss))
        loss, losses, scores = score(prediction, carry.puzzle.labels, q_target)
        has_labels = jnp.any(carry.puzzle.labels != IGNORE, axis=-1)
        scored = active & carry.halted & has_labels
        scores: Parts = {**scores, "steps": carry.steps}
        counted = metrics(losses, scores, active=active, scored=scored)
        return jnp.sum(jnp.where(active, loss, 0.0)), counted
