"""What training needs to know of a GPT: the `Task` protocol of `train/objective.py`."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from data.text.dataset import IGNORE, Tokens
from gpt.loss import summed_cross_entropy
from gpt.model import GPT

Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]


class GPTTask(eqx.Module):
    """The next token of sequences of text. Nothing is carried from batch to batch."""

    loss_chunk: int = eqx.field(static=True)

    def init_carry(self, model: GPT, batch: int) -> tuple[()]:
        """Nothing."""
        return ()

    def admit(self, model: GPT, carry: tuple[()], batch: Tokens) -> Tokens:
        """The batch itself."""
        return batch

    def row_ids(self, carry: Tokens) -> tuple[()]:
        """There is no table."""
        return ()

    def done(self, carry: tuple[()]) -> Array:
        """Always: a batch gets one update."""
        return jnp.ones((), bool)

    def loss(
        self,
        model: GPT,
        rows: tuple[()],
        carry: Tokens,
        keys: Key[Array, " batch"] | None,
    ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], tuple[()], Metrics]]:
        """The loss summed over tokens, their number, the next carry, the metrics.

        Args:
            model: in the compute type.
            rows: none.
            carry: the batch.
            keys: for dropout, one for each sequence; none for no dropout.
        """
        x = model.hidden(carry.inputs, keys)
        total: Array = summed_cross_entropy(  # pyright: ignore[reportAssignmentType]
            x.reshape(-1, x.shape[-1]),
            model.embedding.weight,
            carry.targets.reshape(-1),
            self.loss_chunk,
        )
        count = jnp.sum(carry.targets != IGNORE).astype(jnp.float32)
        return total, (count, (), {"loss": (total, count)})

    def evaluate(
        self, model: GPT, rows: tuple[()], carry: Tokens
    ) -> tuple[Metrics, tuple[()]]:
        """The loss without dropout; no predictions."""
        _, (_, _, metrics) = self.loss(model, rows, carry, None)
        return metrics, ()
