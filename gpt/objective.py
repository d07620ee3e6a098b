"""The training loss and the evaluation of a GPT."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from data.text.dataset import IGNORE, Tokens
from gpt.loss import summed_cross_entropy
from gpt.metrics import Loss, Metrics
from gpt.model import GPT


def next_token_loss(
    model: GPT,
    rows: tuple[()],
    carry: Tokens,
    keys: Key[Array, " batch"] | None,
    *,
    chunk: int,
) -> Loss:
    """Return the loss summed over tokens, the number of tokens, and the metrics.

    The batch is `carry`; `chunk` tokens at most have logits in memory at once.
    """
    x = model.hidden(carry.inputs, keys)
    with jax.named_scope("loss"):
        total: Array = summed_cross_entropy(  # pyright: ignore[reportAssignmentType]
            x.reshape(-1, x.shape[-1]),
            model.unembedding.weight,
            carry.targets.reshape(-1),
            chunk,
            model.logit_cap,
        )
    count = jnp.sum(carry.targets != IGNORE).astype(jnp.float32)
    return total, (count, (), {"loss": (total, count)})


def evaluate(
    model: GPT, rows: tuple[()], carry: Tokens, *, chunk: int
) -> tuple[Metrics, tuple[()]]:
    """Return the loss without dropout, and no predictions."""
    _, (_, _, metrics) = next_token_loss(model, rows, carry, None, chunk=chunk)
    return metrics, ()
